"""How fast, and how small, is the unroll?   python -m tests.benchmarks.unroll [--threads 2]

Checks that all hypergradients agree (float64, 1e-9), then times everyone side by side: rounds in
turn, the median of each, forward and backward, in ms an inner step (of one task). Then the growth
of memory, and how long compiling takes, each in a process of its own. Exits non-zero when numbers
differ or a bound of ours is broken.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from tests.benchmarks.unroll_peers import CONTENDERS, TASKS, Problem, make_problem  # noqa: E402

UNIT, BASE = "SGD, first order", "higher"
BOUNDS = {  # largest time, as a share of higher's at K = 100
    ("S", "eager"): 0.85,
    ("S", "compile"): 0.33,
    ("S", "eager, 16 tasks"): 0.16,
    ("S", "compile, 16 tasks"): 0.09,
    ("M", "eager"): 0.92,
}
GROWTH = {("checkpoint", "M", 400): 80.0}  # MiB
OF_EAGER = {("checkpoint", "M", 400): 1.4}  # largest time, as a share of eager's, the two alone
COLD, WARM = 60.0, 15.0  # seconds to compile


def contenders(workload: str) -> list[str]:
    def serves(name: str) -> bool:
        if name.startswith("TorchOpt"):
            try:
                import torchopt  # noqa: F401
            except ImportError:
                print("TorchOpt is left out: pip install torchopt")
                return False
        return workload == "S" or "tasks" not in name

    return [name for name in CONTENDERS if serves(name)]


def hypergradient(name: str, problem: Problem) -> torch.Tensor | None:
    outcome = CONTENDERS[name](problem)
    if outcome is None:
        return None
    sources = list(problem.rule.parameters())
    if isinstance(outcome, tuple):
        outcome, sources = outcome
    grads = torch.autograd.grad(outcome, sources)
    return torch.cat([grad.flatten() for grad in grads])


def check(workload: str, steps: int = 12) -> None:
    """Raise ``SystemExit`` unless all agree, in float64, through a few steps."""
    problem = make_problem(workload, steps, torch.float64)
    truth = hypergradient("by hand", problem)
    for name in contenders(workload):
        found = hypergradient(name, problem)
        if found is not None and not name.startswith("TorchOpt"):
            apart = ((found - truth).abs().max() / truth.abs().max()).item()
            if not apart < 1e-9:
                raise SystemExit(f"{workload}: {name} differs from the hand-written loop: {apart}")
    print(f"{workload}: all hypergradients agree to 1e-9 (float64, K = {steps})")


def flops(name: str, problem: Problem) -> int:
    with FlopCounterMode(display=False) as counter:
        hypergradient(name, problem)
    return counter.get_total_flops()


def times(workload: str, steps: int, rounds: int, names: list[str]) -> dict[str, float]:
    """ms an inner step, {contender: median over rounds}."""
    problem = make_problem(workload, steps)
    found: dict[str, list[float]] = {}
    for turn in range(rounds + 1):  # the first warms up
        for name in names:
            gc.collect()  # as timeit does: nobody pays for what others left
            gc.disable()
            began = time.perf_counter()
            hypergradient(name, problem)
            seconds = time.perf_counter() - began
            gc.enable()
            if turn:
                found.setdefault(name, []).append(seconds)
    share = {name: TASKS if "tasks" in name else 1 for name in names}
    return {n: 1e3 * statistics.median(t) / steps / share[n] for n, t in found.items()}


def growth(name: str, workload: str, steps: int) -> float:
    """MiB by which a fresh process grows, the median of three, for holes between tensors vary;
    compiled programs and libraries do not count."""
    code = f"from tests.benchmarks.unroll import peak; peak({name!r}, {workload!r}, {steps})"
    runs = (subprocess.run([sys.executable, "-c", code], **_HERE) for _ in range(3))
    return statistics.median(float(run.stdout) for run in runs)


def peak(name: str, workload: str, steps: int) -> None:
    torch.set_num_threads(1)
    problem = make_problem(workload, steps)
    short = problem._replace(batches=problem.batches[: 6 if "compile" in name else 1])
    hypergradient(name, short)
    before = highest()
    hypergradient(name, problem)
    print(highest() - before)


def highest() -> float:
    """The most memory that this process has had, MiB (Linux; ``ru_maxrss`` would be that of the
    process that started it, if that was larger)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def compile_seconds(name: str) -> tuple[float, float]:
    """Seconds of a first call: with an empty cache on disk, and in another process after that."""
    code = f"from tests.benchmarks.unroll import first_call; first_call({name!r})"
    with tempfile.TemporaryDirectory() as folder:
        there = {**_HERE, "env": {**_HERE["env"], "TORCHINDUCTOR_CACHE_DIR": folder}}
        runs = [subprocess.run([sys.executable, "-c", code], **there) for _ in range(2)]
    return tuple(float(run.stdout) for run in runs)


def first_call(name: str) -> None:
    torch.set_num_threads(1)
    problem = make_problem("S", 100)
    began = time.perf_counter()
    hypergradient(name, problem)
    print(time.perf_counter() - began)


_ROOT = Path(__file__).parents[2]
_HERE = {
    "cwd": _ROOT,
    "env": {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
    "capture_output": True,
    "text": True,
    "check": True,
}


def draw(rows: list[dict], path: Path) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    from nested.support.plots import new_figure, save_figure

    figure, (axes,) = new_figure(1, 2)
    for axis, what, unit in zip(axes, ("ms", "MiB"), ("ms an inner step", "growth, MiB")):
        for name in dict.fromkeys(row["name"] for row in rows):
            points = [(r["K"], r[what]) for r in rows if r["name"] == name and what in r]
            if len(points) > 1:
                axis.plot(*zip(*points), marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="K, inner steps", ylabel=unit)
        steps = sorted({row["K"] for row in rows if what in row})
        axis.set_xticks(steps, map(str, steps))
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
    axes[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    save_figure(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=["S", "M"], choices=["S", "M"])
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 20, 100, 400])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--png", type=Path, help="draw time and memory against K, of M, here")
    parser.add_argument("--time-only", action="store_true", help="no memory, no compile time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, broken = [], []
    for workload in args.workloads:
        check(workload)
        counted = make_problem(workload, 20)
        work = {n: flops(n, counted) for n in ("by hand", UNIT)}
        bound = work["by hand"] / work[UNIT]
        print(f"{workload}: an unroll needs {bound:.2f} x the FLOPs of training alone")
        for steps in args.steps:
            found = times(workload, steps, args.rounds, contenders(workload))
            print(f"\n{workload}, K = {steps}, {args.threads} thread(s)")
            print(f"{'':<24}{'ms a step':>10}{'/ higher':>10}{'/ SGD':>8}{'/ bound':>9}{'MiB':>8}")
            for name, ms in found.items():
                row = {"workload": workload, "K": steps, "name": name, "ms": ms}
                least = found[UNIT] * (1 if name == UNIT else bound)
                if not args.time_only and "tasks" not in name and steps > 1:
                    row["MiB"] = growth(name, workload, steps)
                ratio = ms / found[BASE]
                memory = f"{row['MiB']:8.0f}" if "MiB" in row else ""
                print(
                    f"{name:<24}{ms:10.3f}{ratio:10.2f}{ms / found[UNIT]:8.2f}{ms / least:9.2f}"
                    f"{memory}",
                    flush=True,
                )
                rows.append(row)
                allowed = BOUNDS.get((workload, name), 9.0) if steps == 100 else 9.0
                most = GROWTH.get((name, workload, steps), 1e9)
                if (name, workload, steps) in OF_EAGER:
                    alone = times(workload, steps, args.rounds, ["eager", name])
                    row["of eager"] = alone[name] / alone["eager"]
                    print(f"{'':<24}alone with eager: {row['of eager']:.2f} x its time")
                slow = row.get("of eager", 0.0) > OF_EAGER.get((name, workload, steps), 1e9)
                if ratio > allowed or slow or row.get("MiB", 0.0) > most:
                    broken.append(f"{workload} K = {steps} {name}")
    if not args.time_only and "S" in args.workloads:
        for name in ("compile", "compile, 16 tasks"):
            cold, warm = compile_seconds(name)
            print(f"\n{name}: first call {cold:.1f} s, in a second process {warm:.1f} s")
            rows.append({"name": name, "cold s": cold, "warm s": warm})
            broken += [f"compiling {name}"] if cold > COLD or warm > WARM else []
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.png:
        draw([row for row in rows if row.get("workload") == "M"], args.png)
    print(f"\nbounds broken: {', '.join(broken) or 'none'}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
