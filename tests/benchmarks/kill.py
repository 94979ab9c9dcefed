"""Is anything lost when the demo is killed?   python tests/benchmarks/kill.py [KILLS]

Starts a small run of main.py, kills it (SIGKILL) at a random moment, loads whatever checkpoint is
there, resumes it to its end, and compares every number with those of a run never killed; 30 times
by default, about eight minutes. Exits non-zero at the first difference.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nested.support.files import load_checkpoint

ROOT = Path(__file__).parents[2]
FLAGS = ["--quick", "--meta-steps", "250", "--horizon", "2"]


def start(folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "main.py"), *FLAGS, "--out", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def numbers(folder: Path) -> dict:
    report = json.loads((folder / "race.json").read_text())
    return {key: value for key, value in report.items() if key != "seconds"}


def finish(process: subprocess.Popen) -> None:
    _, err = process.communicate()
    if process.returncode:
        sys.exit(f"a run failed: {err}")


def main(kills: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        finish(start(folder / "whole"))
        duration = time.monotonic() - began
        whole, moments, learned = numbers(folder / "whole"), random.Random(0), []
        for kill in range(kills):
            killed = folder / f"killed-{kill}"
            process = start(killed)
            moment = moments.uniform(0, duration)
            time.sleep(moment)
            process.kill()
            process.wait()
            process.stderr.close()
            saved = killed / "rule.pt"
            learned.append(len(load_checkpoint(saved)["history"]) if saved.exists() else None)
            finish(start(killed, "--resume"))
            if numbers(killed) != whole:
                sys.exit(f"killed after {moment:.2f} s, the numbers are not those of a whole run")
            moment_and_saved = f"killed after {moment:5.2f} s, with {learned[-1]} meta-steps saved"
            print(f"{kill + 1:>3}: {moment_and_saved}: resumed to the same numbers", flush=True)
    inside = sum(steps is not None and 0 < steps < 250 for steps in learned)
    if kills >= 10 and not inside:
        sys.exit("no kill fell inside meta-training: give it more meta-steps")
    print(f"{kills} kills, {inside} of them between the first and the last meta-step: nothing lost")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
