"""What each optimizer reaches, at its best rate.   python -m tests.benchmarks.optim_quality

Three problems: an MLP on digits in random order, the same sorted by class, and a small byte
Transformer on English. Each optimizer gets the same trials, ten rates on two seeds; then its
best rate is measured on eight other seeds. The number is the loss on unseen data, averaged over the
last 100 steps. Takes half an hour on two cores.
"""

import argparse
import functools
import math
import os
import pydoc_data.topics
import warnings
from multiprocessing import get_context

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from torch import Generator, nn  # noqa: E402

from nested.optim import (  # noqa: E402
    DGD,
    M3,
    DeepMomentum,
    DeltaMomentum,
    NestedOptimizer,
    periods_by_depth,
)
from nested.tasks.digits import load_digits  # noqa: E402
from tests.benchmarks.optim import ByteTransformer, MuonAndAdamW  # noqa: E402

UNIT = "AdamW"
OPTIMIZERS = {
    UNIT: lambda net, lr: torch.optim.AdamW(net.parameters(), lr),
    "SGD with momentum": lambda net, lr: torch.optim.SGD(net.parameters(), lr, 0.9),
    "Muon and AdamW": MuonAndAdamW,
    "DGD": lambda net, lr: DGD(net.parameters(), lr, module=net),
    "DeltaMomentum": lambda net, lr: DeltaMomentum(net.parameters(), lr),
    "DeltaMomentum, unit key": lambda net, lr: DeltaMomentum(net.parameters(), lr, unit_key=True),
    "DeepMomentum": lambda net, lr: DeepMomentum(net.parameters(), lr),
    "DeepMomentum, by shape": lambda net, lr: DeepMomentum(net.parameters(), lr, shared="shape"),
    "M3": lambda net, lr: M3(net.parameters(), lr),
    "M3, float32": lambda net, lr: M3(net.parameters(), lr, ns_dtype=torch.float32),
    "M3, no slow momentum": lambda net, lr: M3(net.parameters(), lr, slow_weight=0.0),
    "M3, paper's form": lambda net, lr: M3(net.parameters(), lr, form="paper"),
    "M3, paper's, eps 0.01": lambda net, lr: M3(net.parameters(), lr, form="paper", eps=0.01),
    "Nested, periods 1": lambda net, lr: NestedOptimizer(net.parameters(), lr=lr),
    "Nested, periods 4, 1": lambda net, lr: NestedOptimizer(periods_by_depth(net, (4, 1)), lr=lr),
}
PROBLEMS = ("digits", "digits sorted by class", "text")
RATES = [10 ** (-4 + 0.5 * i) for i in range(10)]  # 1e-4 to 3
TUNING_SEEDS, SEEDS = (100, 101), range(8)
STEPS, CLASS_BLOCK = 300, 10
DIVERGED = 99.0


def digits(is_sorted, generator):
    """Endless batches of 32, and 597 unseen digits."""
    images, labels = load_digits()
    unseen = images[1200:], labels[1200:]

    def batches():
        for step in range(STEPS):
            if step % (10 * CLASS_BLOCK) == 0:
                order = torch.randperm(10, generator=generator)
            label = order[step // CLASS_BLOCK % 10]
            pool = (labels[:1200] == label).nonzero()[:, 0] if is_sorted else torch.arange(1200)
            rows = pool[torch.randint(len(pool), (32,), generator=generator)]
            yield images[rows], labels[rows]

    return batches(), unseen


@functools.cache
def english():
    text = "".join(pydoc_data.topics.topics.values()).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def text(generator):
    """Batches of 8 pieces of 64 bytes, and 64 unseen pieces from the last tenth."""
    data = english()
    split = len(data) * 9 // 10

    def pieces(starts):
        rows = torch.stack([data[start : start + 65] for start in starts])
        return rows[:, :-1], rows[:, 1:].flatten()

    unseen = pieces(torch.linspace(split, len(data) - 65, 64).long())
    draws = (torch.randint(split - 65, (8,), generator=generator) for _ in range(STEPS))
    return (pieces(starts) for starts in draws), unseen


def train(job):
    """The loss on unseen data of one run: (problem, optimizer, lr, seed)."""
    problem, name, lr, seed = job
    generator = Generator().manual_seed(seed)
    torch.manual_seed(seed)
    if problem == "text":
        net, (batches, unseen) = ByteTransformer(64, layers=2), text(generator)
    else:
        net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        batches, unseen = digits("sorted" in problem, generator)

    def loss(batch):
        return nn.functional.cross_entropy(net(batch[0]).flatten(0, -2), batch[1])

    optimizer, losses = OPTIMIZERS[name](net, lr), []
    for step, batch in enumerate(batches):
        net.zero_grad()
        current = loss(batch)
        if not math.isfinite(current.item()):
            return DIVERGED
        current.backward()
        optimizer.step()
        if step >= STEPS - 100 and step % 10 == 9:
            with torch.no_grad():
                losses.append(loss(unseen).item())
    return min(DIVERGED, torch.tensor(losses).mean().nan_to_num(nan=DIVERGED).item())


def prepare():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # DGD says what it leaves to plain descent


def mean(numbers):
    return sum(numbers) / len(numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=OPTIMIZERS)
    args = parser.parse_args()
    with get_context("spawn").Pool(2, prepare) as pool:

        def losses(jobs):
            return dict(zip(jobs, pool.map(train, jobs, chunksize=1)))

        for problem in args.problems:
            tuning = losses(
                [
                    (problem, name, lr, seed)
                    for name in args.optimizers
                    for lr in RATES
                    for seed in TUNING_SEEDS
                ]
            )
            best = {
                name: min(
                    RATES, key=lambda lr: mean([tuning[problem, name, lr, s] for s in TUNING_SEEDS])
                )
                for name in args.optimizers
            }
            final = losses([(problem, name, lr, s) for name, lr in best.items() for s in SEEDS])
            print(f"\n{problem}: loss on unseen data, {len(SEEDS)} seeds", flush=True)
            print(f"{'':<26}{'loss':>8}{'error':>8}{'/ AdamW':>9}{'lr':>10}")
            unit = None
            for name, lr in best.items():
                found = torch.tensor([final[problem, name, lr, s] for s in SEEDS])
                unit = unit or found.mean().item()
                error = found.std() / len(found) ** 0.5
                shown = f"{found.mean():>8.3f}{error:>8.3f}{found.mean() / unit:>9.2f}{lr:>10.2g}"
                print(f"{name:<26}{shown}", flush=True)


if __name__ == "__main__":
    main()
