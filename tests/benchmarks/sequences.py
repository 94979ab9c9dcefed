"""What memories cost.   python -m tests.benchmarks.sequences [--only speed | generation]

Speed: prints tokens a second of whole models, forward and backward on one thread, beside a
Transformer of the same width and depth. It also prints the ratio that floating-point operations
(FLOPs) alone would allow. Models take turns. A model counts by its best round, which other programs
disturb least, as ``timeit`` advises. Beside it stands the median of the ratios within a round.
Generation: prints a token's time and the size of the state after 128 tokens and after 29,952. The
program exits non-zero when a bound is broken."""

import argparse
import os
import statistics
import sys
import time

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from nested.models import Hope, ModelConfig, Transformer  # noqa: E402

SAMPLES, TOKENS = 8, 512
BOUNDS = {"linear": 0.4, "titans": 0.33, "selfmod": 0.17}  # of the Transformer's tokens a second
NEAR, FAR = 128, 29_952  # both on every clock: the 256 tokens after them hold the same work
STEPS = 256


def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    found = {"Transformer": Transformer(ModelConfig())}
    for mixer in ("linear", "titans", "selfmod", "attention"):
        found[mixer] = Hope(ModelConfig(mixer=mixer))
    return found


def learn(model, tokens, targets):
    logits, _ = model(tokens)
    cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()


def uncounted(name, config):
    """Operations that PyTorch's counter leaves out: causal attention, and triangular systems. The
    backward pass takes twice as many as the forward pass."""
    tokens, dim = SAMPLES * TOKENS, config.dim
    if name in ("Transformer", "attention"):
        once = 2 * tokens * TOKENS * dim  # q k^T and p v, half of each masked
    else:  # chunk^2 for each column of a right side
        columns = {"linear": dim, "titans": dim, "selfmod": 8 * dim + 2 * config.heads}[name]
        once = tokens * config.chunk * columns
    return 3 * config.layers * once


def speed(rounds: int) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(256, (SAMPLES, TOKENS + 1), generator=generator)
    batch, entrants = (text[:, :-1], text[:, 1:]), models()
    flops, times = {}, {name: [] for name in entrants}
    for name, model in entrants.items():
        with FlopCounterMode(display=False) as counter:
            learn(model, *batch)
        flops[name] = counter.get_total_flops() + uncounted(name, model.config)
    for _ in range(rounds):
        for name, model in entrants.items():
            start = time.perf_counter()
            learn(model, *batch)
            times[name].append(time.perf_counter() - start)
    unit, best = times["Transformer"], {name: min(taken) for name, taken in times.items()}
    print(f"{SAMPLES} x {TOKENS} tokens, width 128, 2 layers, forward and backward, one thread")
    print(f"{'':12}  tokens/s  ratio  median  bound by FLOPs  GFLOP  parameters")
    broken = []
    for name, model in entrants.items():
        ratio = best["Transformer"] / best[name]
        median = statistics.median(ours / own for ours, own in zip(unit, times[name]))
        count = sum(p.numel() for p in model.parameters())
        bound = flops["Transformer"] / flops[name]
        tokens = SAMPLES * TOKENS / best[name]
        line = f"{name:12}{tokens:10,.0f}{ratio:7.3f}{median:8.3f}{bound:16.3f}"
        print(f"{line}{flops[name] / 1e9:7.1f}{count:12,}")
        if ratio < BOUNDS.get(name, 0):
            broken.append(f"{name} at {ratio:.3f} of the Transformer's speed: under {BOUNDS[name]}")
    return broken


def size(state) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    return sum(map(size, state.values() if isinstance(state, dict) else state))


@torch.no_grad()
def generation(rounds: int) -> list[str]:
    generator, broken = torch.Generator().manual_seed(0), []
    text = torch.randint(256, (1, FAR), generator=generator)
    print(f"\none token after another: after {NEAR} tokens, after {FAR:,}")
    for name, model in models().items():
        states = {}
        _, state = model(text[:, :NEAR])
        states[NEAR] = state
        for part in text[:, NEAR:].split(4096, dim=1):
            _, state = model(part, state)
        states[FAR] = state
        times = {at: [] for at in states}
        for _ in range(rounds):
            for at, state in states.items():
                start = time.perf_counter()
                for step in range(STEPS):
                    _, state = model(text[:, step : step + 1], state)
                times[at].append((time.perf_counter() - start) / STEPS)
        near, far = (statistics.median(times[at]) * 1e3 for at in (NEAR, FAR))
        sizes = [size(states[at]) / 2**20 for at in (NEAR, FAR)]
        print(
            f"{name:12} {near:6.2f} ms, {far:6.2f} ms: {far / near:.2f};"
            f"  state {sizes[0]:6.2f} MiB, {sizes[1]:6.2f} MiB"
        )
        if name not in ("Transformer", "attention") and (far > 1.1 * near or sizes[0] != sizes[1]):
            broken.append(f"{name}: a token costs {far / near:.2f} times as much in the end")
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("speed", "generation"))
    parser.add_argument("--rounds", type=int, choices=range(1, 1000), default=11, metavar="N")
    args = parser.parse_args()
    torch.set_num_threads(1)
    broken = [] if args.only == "generation" else speed(args.rounds)
    broken += [] if args.only == "speed" else generation(args.rounds)
    print(f"bounds broken: {'; '.join(broken) or 'none'}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
