"""Small nets to test an optimizer on, with weights of all kinds and layouts.

Gradients are small, so that no optimizer diverges at a usual rate. Letters: B rows.
Source: ``nested.conformance.optimizer``, whose checks train these nets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from nested.conformance.check import largest

Make = Callable[[Any, nn.Module], Optimizer]  # make(params, module): a fresh optimizer

STEPS = 14  # in a run
FIRES = 12  # steps after which every clock has ticked
ROWS = 8  # B
GENTLY = 0.2  # factor of the squared error; gradient norms stay under 1


class SmallNet(nn.Module):
    """Map (B, 3) to (B, 2) by two linear layers and a scalar. One more weight is unused.

    Raises ``RuntimeError`` for other inputs than (B, 3)."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.zeros(()))
        self.unused = nn.Parameter(torch.ones(2))
        generator = Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 2)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3) -> (B, 2)"""
        return self.second(torch.tanh(self.first(x))) * (1 + self.scale)


class OddNet(nn.Module):
    """Map (B, 3) to (B, 2) by a weight that is contiguous or not. One more weight is empty.

    Raises ``RuntimeError`` for other inputs than (B, 3)."""

    def __init__(self, seed: int, is_contiguous: bool) -> None:
        super().__init__()
        weight = torch.randn(2, 3, generator=Generator().manual_seed(seed)).T
        self.weight = nn.Parameter(weight.contiguous() if is_contiguous else weight)
        self.empty = nn.Parameter(torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3) -> (B, 2)"""
        return x @ self.weight + self.empty.sum()


def net_loss(net: nn.Module, k: int) -> Tensor:
    """Compute the loss, (), of ``net`` on batch number ``k``."""
    generator, like = Generator().manual_seed(1000 + k), next(net.parameters())
    x, y = (torch.randn(ROWS, width, generator=generator).to(like) for width in (3, 2))
    return GENTLY * (net(x) - y).square().mean()


def train(
    net: nn.Module, optimizer: Optimizer, steps: Sequence[int], sign: float = 1.0, **flags: Any
) -> list[Tensor]:
    """Train on the batches numbered ``steps``, with the loss times ``sign``.

    The other keywords go to ``zero_grad``. Returns the final weights, (...) each."""
    for k in steps:
        optimizer.zero_grad(**flags)
        (sign * net_loss(net, k)).backward()
        optimizer.step()
    return weights_of(net)


def trained(
    make: Make, seed: int, steps: Sequence[int] = range(STEPS), **flags: Any
) -> list[Tensor]:
    """Train a new net with an optimizer of ``make``, and return its weights, (...) each."""
    net = SmallNet(seed)
    return train(net, make(list(net.parameters()), net), steps, **flags)


def weights_of(net: nn.Module) -> list[Tensor]:
    """Copy the weights, (...) each, in order."""
    return [p.detach().clone() for p in net.parameters()]


def difference(ours: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the largest difference of any pair of tensors (...), or NaN if there is a NaN."""
    pairs = zip(ours, others, strict=True)
    return largest((a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel())
