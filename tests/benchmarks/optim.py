"""What a step of each optimizer costs.   python -m tests.benchmarks.optim [--threads 2]

Only ``step`` is timed, in turn, for many rounds; gradients come from real forward and
backward passes. Ratios are to ``torch.optim.AdamW(foreach=True)``, and M3's to ``torch.optim.Muon``
with AdamW for vectors. On 9.6 million weights, what a step allocates is measured as well, as a
share of the weights. Exits non-zero when a bound is broken.
"""

import argparse
import os
import statistics
import sys
import time
import warnings

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402
from torch import Generator, nn  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from nested.optim import (  # noqa: E402
    DGD,
    M3,
    DeepMomentum,
    DeltaMomentum,
    NestedOptimizer,
    periods_by_depth,
)

UNIT, MUON = "AdamW, foreach", "Muon and AdamW"
BOUNDS = {  # largest ratio, and to what
    "Nested, all periods 1": (1.1, UNIT),
    "Nested, periods 16, 4, 1": (1.1, UNIT),
    "M3": (1.3, MUON),
    "DeltaMomentum": (8.0, UNIT),
}
LARGE_BOUNDS = {"DeepMomentum": 8.0, "DeepMomentum, by shape": 8.0}  # times AdamW
TEMPORARIES = 4.0  # most, times the weights
LARGE = [(1024, 1024)] * 9 + [(1024,)] * 9 + [(150, 1024)]  # 9.6 million weights


class ByteTransformer(nn.Module):
    """Four heads; logits (B, T, 256). 128 wide and 5 layers deep: a million parameters."""

    def __init__(self, width: int = 128, layers: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(self.embedding(tokens), mask, is_causal=True))


class MuonAndAdamW:
    """``torch.optim.Muon`` takes matrices only; the rest goes to AdamW."""

    def __init__(self, net, lr=1e-4):
        params = list(net.parameters())
        size = {"nesterov": False, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
        self.parts = [
            torch.optim.Muon([p for p in params if p.dim() == 2], lr, **size),
            torch.optim.AdamW([p for p in params if p.dim() != 2], lr, foreach=True),
        ]

    def step(self):
        for part in self.parts:
            part.step()


def adamw_nested(net, periods):
    return NestedOptimizer(periods_by_depth(net, periods), lr=1e-4, foreach=True)


CONTENDERS = {
    UNIT: lambda net: torch.optim.AdamW(net.parameters(), 1e-4, foreach=True),
    "SGD with momentum": lambda net: torch.optim.SGD(net.parameters(), 1e-4, 0.9, foreach=True),
    "Nested, all periods 1": lambda net: adamw_nested(net, (1, 1, 1)),
    "Nested, periods 16, 4, 1": lambda net: adamw_nested(net, (16, 4, 1)),
    MUON: MuonAndAdamW,
    "M3": lambda net: M3(net.parameters(), 1e-4),
    "M3, float32": lambda net: M3(net.parameters(), 1e-4, ns_dtype=torch.float32),
    "DeltaMomentum": lambda net: DeltaMomentum(net.parameters(), 1e-4),
    "DeltaMomentum, unit key": lambda net: DeltaMomentum(net.parameters(), 1e-4, unit_key=True),
    "DGD": lambda net: DGD(net.parameters(), 1e-4, module=net),
    "DeepMomentum": lambda net: DeepMomentum(net.parameters(), 1e-4),
    "DeepMomentum, by shape": lambda net: DeepMomentum(net.parameters(), 1e-4, shared="shape"),
}


def make_mlp():
    generator = Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    x = torch.randn(64, 784, generator=generator)
    y = torch.randint(10, (64,), generator=generator)
    return net, lambda: nn.functional.cross_entropy(net(x), y)


def make_transformer():
    net, generator = ByteTransformer(), Generator().manual_seed(0)
    tokens = torch.randint(256, (4, 65), generator=generator)

    def loss():
        logits = net(tokens[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    return net, loss


def measure(make, rounds):
    """{name: ms a step}"""
    runs, times = {}, {name: [] for name in CONTENDERS}
    for name, optimizer in CONTENDERS.items():
        torch.manual_seed(0)
        net, loss = make()
        runs[name] = loss, optimizer(net)
    for k in range(rounds + 3):
        for name, (loss, optimizer) in runs.items():
            if k < 3 or name == "DGD":  # the others' gradients stay as they are
                loss().backward()
            start = time.perf_counter()
            optimizer.step()
            times[name] += [1000 * (time.perf_counter() - start)] * (k >= 3)
    # steps on which a slow clock fires cost more: means, of three parts the middle one
    parts = {name: [t[i::3] for i in range(3)] for name, t in times.items()}
    return {name: statistics.median(map(statistics.mean, part)) for name, part in parts.items()}


def allocated(step):
    """The most bytes that a step holds at one time beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def measure_large(rounds=5):
    """{name: (ms a step, temporaries as a share of the weights)}"""
    steps, times = {}, {}
    for name in (UNIT, *LARGE_BOUNDS):
        net = nn.ParameterList([torch.randn(shape) for shape in LARGE])
        for p in net:
            p.grad = torch.randn_like(p)
        steps[name] = CONTENDERS[name](net).step
        steps[name]()
    size = sum(p.nbytes for p in net)
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times.setdefault(name, []).append(1000 * (time.perf_counter() - start))
    return {name: (min(times[name]), allocated(step) / size) for name, step in steps.items()}


def broken_when_large():
    found, broken = measure_large(), []
    print(f"\n9.6 million weights\n{'':<26}{'ms a step':>10}{'/ AdamW':>10}{'allocates':>10}")
    for name, (ms, share) in found.items():
        ratio = ms / found[UNIT][0]
        print(f"{name:<26}{ms:>10.0f}{ratio:>10.2f}{share:>10.2f}")
        if ratio > LARGE_BOUNDS.get(name, 1.0) or share > TEMPORARIES:
            broken.append(f"9.6 million weights: {name} {ratio:.2f} x {UNIT}, {share:.2f} weights")
    return broken


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=120)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # DGD says what it leaves to plain descent
    broken = []
    for title, make in (("MLP 784-256-256-10", make_mlp), ("byte Transformer", make_transformer)):
        count = sum(p.numel() for p in make()[0].parameters())
        found = measure(make, args.rounds)
        print(f"\n{title}, {count:,} parameters, {args.threads} thread(s)")
        print(f"{'':<26}{'ms a step':>10}{'/ AdamW':>10}{'/ Muon':>10}")
        for name, ms in found.items():
            print(f"{name:<26}{ms:>10.3f}{ms / found[UNIT]:>10.2f}{ms / found[MUON]:>10.2f}")
        for name, (bound, unit) in BOUNDS.items():
            if found[name] > bound * found[unit]:
                broken.append(f"{title}: {name} {found[name] / found[unit]:.2f} x {unit}")
    broken += broken_when_large()
    print("\nbounds broken:", ", ".join(broken) or "none")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
