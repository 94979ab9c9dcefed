"""Runs that the tests of this folder share: a small net, and every optimizer of the room."""

import torch
from torch import Generator, nn

from nested.optim import DGD, M3, DeepMomentum, DeltaMomentum, NestedOptimizer, periods_by_depth

BATCH = 6
OPTIMIZERS = {
    "DGD": lambda net: DGD(net.parameters(), 0.1, module=net),
    "DGD sum": lambda net: DGD(net.parameters(), 0.1, module=net, reduction="sum"),
    "DeltaMomentum": lambda net: DeltaMomentum(net.parameters(), 0.05),
    "DeltaMomentum unit": lambda net: DeltaMomentum(net.parameters(), 0.05, unit_key=True),
    "DeepMomentum": lambda net: DeepMomentum(net.parameters(), 0.05),
    "DeepMomentum by shape": lambda net: DeepMomentum(net.parameters(), 0.05, shared="shape"),
    "M3": lambda net: M3(net.parameters(), 0.05, period=3),
    "M3 paper": lambda net: M3(net.parameters(), 0.01, period=3, form="paper", eps=0.1),
    "M3 in float32": lambda net: M3(net.parameters(), 0.05, ns_dtype=torch.float32),
    "M3 as Muon": lambda net: M3(net.parameters(), 0.05, slow_weight=0, second_moment=False),
    "Nested AdamW": lambda net: NestedOptimizer(periods_by_depth(net, (4, 3, 1)), lr=0.05),
    "Nested mean": lambda net: NestedOptimizer(
        periods_by_depth(net, (4, 3, 1)), torch.optim.NAdam, "mean", lr=0.05
    ),
    "Nested SGD": lambda net: NestedOptimizer(
        periods_by_depth(net, (4, 3, 1)), torch.optim.SGD, lr=0.05
    ),
    "Nested momentum": lambda net: NestedOptimizer(
        periods_by_depth(net, (2, 1)), torch.optim.SGD, lr=0.05, momentum=0.9
    ),
    "Nested Adagrad": lambda net: NestedOptimizer(
        periods_by_depth(net, (2, 1)), torch.optim.Adagrad, lr=0.05
    ),
    "Nested DeltaMomentum": lambda net: NestedOptimizer(
        periods_by_depth(net, (2, 1)), DeltaMomentum, lr=0.05
    ),
}


def make_net(dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2))
    return net.to(dtype)


def batch(k, dtype=torch.float32):
    generator = Generator().manual_seed(k)
    x, y = (torch.randn(BATCH, width, generator=generator) for width in (5, 2))
    return x.to(dtype), y.to(dtype)


def train(net, optimizer, steps):
    """Make these steps, numbers of batches; return copies of the weights after them."""
    for k in steps:
        x, y = batch(k, next(net.parameters()).dtype)
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
