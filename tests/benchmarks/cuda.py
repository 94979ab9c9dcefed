"""Is a GPU right, and what does recording buy?   python -m tests.benchmarks.cuda

Makes the same move of level 4 on the CPU and on the GPU, and exits non-zero if what it leaves
differs by more than 1e-4; then ms a window (K = 10 inner steps of T tasks, one move of level 4) on
the CPU, launched step by step, and recorded as a CUDA graph: rounds in turn, medians.
"""

import statistics
import sys
import time

import torch
from torch.utils._pytree import tree_leaves

from nested import MetaConfig, MetaOptimizer
from nested.meta.meta_step import MetaStep
from nested.support.device import find_device
from nested.tasks import Digits
from nested.tasks.stack import stack_batch, stack_init

ROUNDS, STEPS = 15, 10


def difference() -> float:
    """The largest, between CPU and GPU, in what a move leaves, relative to its largest number."""
    left = []
    for device in ("cpu", "cuda"):
        step, inputs = window(device, 16, records=device == "cuda")
        left.append([x.cpu() for x in tree_leaves(step(*inputs))])
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(*left[::-1]))


def window(device: str, tasks: int, records: bool) -> tuple[MetaStep, tuple]:
    generator = torch.Generator().manual_seed(0)
    family, rule = Digits(device=device), MetaOptimizer().to(device)
    drawn = [family.sample(generator) for _ in range(tasks)]
    params = stack_init(drawn, generator)
    batches = [stack_batch(drawn, generator) for _ in range(STEPS)]
    query = stack_batch(drawn, generator, "query")
    step = MetaStep(rule, MetaConfig())
    step.records = records
    return step, (drawn[0].loss, params, torch.vmap(rule.init)(params), batches, query)


def times(tasks: int) -> dict[str, float]:
    """ms a window, {how: median}."""
    hows = {
        "cpu": ("cpu", False),
        "gpu, launched": ("cuda", False),
        "gpu, recorded": ("cuda", True),
    }
    windows = {how: window(device, tasks, records) for how, (device, records) in hows.items()}
    found: dict[str, list[float]] = {}
    for turn in range(ROUNDS + 1):  # the first warms up, and records
        for how, (step, inputs) in windows.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            step(*inputs)
            torch.cuda.synchronize()
            if turn:
                found.setdefault(how, []).append(1e3 * (time.perf_counter() - began))
    return {how: statistics.median(ms) for how, ms in found.items()}


def main() -> int:
    try:
        find_device("cuda")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    apart = difference()
    print(f"what a move leaves on the GPU differs from the CPU's by {apart:.1g} of its size")
    for tasks in (16, 256):
        for how, ms in times(tasks).items():
            print(f"T = {tasks:4}  {how:<14}{ms:9.2f} ms a window")
    return int(not apart < 1e-4)


if __name__ == "__main__":
    sys.exit(main())
