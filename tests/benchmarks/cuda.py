"""Is a GPU right, and what does it buy?   python -m tests.benchmarks.cuda

Makes the same meta-step on the CPU and on the GPU, and exits non-zero if the results differ by more
than 1e-4. Then it prints ms a window (K = 10 inner steps of T tasks, one meta-step): on the CPU, on
the GPU step by step, and on the GPU with ``backend="compile"``, whose programs are launched as CUDA
graphs. Rounds are in turn; medians.
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
WAYS = {
    "CPU, eager": ("cpu", "eager"),
    "GPU, eager": ("cuda", "eager"),
    "GPU, compile": ("cuda", "compile"),
}


def window(device: str, backend: str, tasks: int) -> tuple[MetaStep, tuple]:
    """A meta-step, and its inputs."""
    generator = torch.Generator().manual_seed(0)
    family, rule = Digits(device=device), MetaOptimizer().to(device)
    drawn = [family.sample(generator) for _ in range(tasks)]
    params = stack_init(drawn, generator)
    batches = [stack_batch(drawn, generator) for _ in range(STEPS)]
    query = stack_batch(drawn, generator, "query")
    step = MetaStep(rule, MetaConfig(backend=backend))
    return step, (drawn[0].loss, params, torch.vmap(rule.init)(params), batches, query)


def differences() -> dict[str, float]:
    """The largest difference from the CPU in what a meta-step leaves, relative to its size."""
    results = {}
    for way, (device, backend) in WAYS.items():
        step, inputs = window(device, backend, tasks=16)
        results[way] = [x.cpu() for x in tree_leaves(step(*inputs))]
    reference = results["CPU, eager"]
    return {
        way: max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(leaves, reference))
        for way, leaves in results.items()
    }


def times(tasks: int) -> dict[str, float]:
    """ms a window, {way: median}."""
    windows = {way: window(*where, tasks) for way, where in WAYS.items()}
    milliseconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(ROUNDS + 1):  # the first one warms up, and compiles
        for way, (step, inputs) in windows.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            step(*inputs)
            torch.cuda.synchronize()
            if turn:
                milliseconds[way].append(1e3 * (time.perf_counter() - began))
    return {way: statistics.median(ms) for way, ms in milliseconds.items()}


def main() -> int:
    try:
        find_device("cuda")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    apart = differences()
    for way, difference in apart.items():
        print(f"{way:<14} differs from the CPU by {difference:.1g}")
    for tasks in (16, 256):
        for way, ms in times(tasks).items():
            print(f"T = {tasks:4}  {way:<14}{ms:9.2f} ms a window")
    return int(not max(apart.values()) < 1e-4)


if __name__ == "__main__":
    sys.exit(main())
