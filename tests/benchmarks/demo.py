"""Does the default demo keep its promises?   python tests/benchmarks/demo.py [SEED ...]

Runs `python main.py --seed S` for each meta-seed (0, 1 and 2 by default, a minute each), prints
what was promised beside what came out, and exits non-zero when a promise is broken. The lines
marked "goal" are shown whether reached or not.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULE, REPLAY, CARRIED = "the rule", "the rule, replayed", "constant of the short race"
SCHEDULE = "learned schedule"


def run_demo(seed: int, folder: Path) -> tuple[dict, float]:
    began = time.monotonic()
    command = [sys.executable, str(ROOT / "main.py"), "--seed", str(seed), "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "race.json").read_text()), time.monotonic() - began


def check(report: dict, seconds: float) -> list[tuple[str, str, bool]]:
    short, long = (result["entries"] for result in report["races"])

    def value(entries: dict, name: str, what: str = "mean") -> float:
        return entries[name][what]["mean"]

    def gain(name: str) -> float:
        return 1 - value(short, RULE) / value(short, name)

    def errors(name: str) -> float:
        paired = short[name]["mean_above_rule"]
        return paired["mean"] / paired["error"]

    lines = []
    for name, least in (
        (SCHEDULE, 0.10),
        (REPLAY, 0.0),
        ("best constant", 0.15),
        ("best decay", 0.10),
    ):
        held = gain(name) >= least and errors(name) > 5
        shown = f"{gain(name):6.1%} better, {errors(name):4.1f} standard errors"
        lines.append((f"H: mean over {least:.0%} under {name}, above 5 errors", shown, held))
    for text, what, name in (
        ("5 H: mean not above the learned schedule", "mean", SCHEDULE),
        ("5 H: mean not above the constant tuned for 5 H", "mean", "best constant"),
        ("5 H: final not above the constant tuned for H", "final", CARRIED),
        ("goal, 5 H: final not above the constant tuned for 5 H", "final", "best constant"),
    ):
        ours, theirs = value(long, RULE, what), value(long, name, what)
        lines.append((text, f"{ours:.3f} against {theirs:.3f}", ours <= theirs))
    ours, theirs = value(short, RULE), value(short, "Adam")
    lines.append(
        ("goal, H: level with tuned Adam", f"{ours:.3f} against {theirs:.3f}", ours <= theirs)
    )
    lines.append(("all within 60 seconds", f"{seconds:.0f} s", seconds <= 60))
    return lines


def main(seeds: list[int]) -> int:
    broken = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            report, seconds = run_demo(seed, Path(folder))
        print(f"meta-seed {seed}")
        for text, shown, held in check(report, seconds):
            print(f"  {'held   ' if held else 'not met'}  {text:<58} {shown}", flush=True)
            broken += not held and not text.startswith("goal")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2]))
