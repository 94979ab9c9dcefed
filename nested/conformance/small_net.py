"""Small nets to try an optimizer on: weights of all kinds and layouts.

Letters: B rows. Source: ours; gentle, so that no optimizer at a usual rate runs away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from nested.conformance.check import largest

Make = Callable[[Any, nn.Module], Optimizer]  # make(params, module): a fresh optimizer

STEPS = 14  # of a run
FIRES = 12  # steps after which every clock has fired
ROWS = 8  # B
GENTLY = 0.2  # times the squared error: gradients of norm under 1


class SmallNet(nn.Module):
    """Two linear layers, from 3 to 2 numbers, a scalar, and a weight that no loss depends on.
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
    """A weight (3, 2) that is contiguous or not, and one without elements. Raises ``RuntimeError``
    for other inputs than (B, 3)."""

    def __init__(self, seed: int, is_contiguous: bool) -> None:
        super().__init__()
        weight = torch.randn(2, 3, generator=Generator().manual_seed(seed)).T
        self.weight = nn.Parameter(weight.contiguous() if is_contiguous else weight)
        self.empty = nn.Parameter(torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3) -> (B, 2)"""
        return x @ self.weight + self.empty.sum()


def net_loss(net: nn.Module, k: int) -> Tensor:
    """The loss, (), of ``net`` on batch number ``k``."""
    generator, like = Generator().manual_seed(1000 + k), next(net.parameters())
    x, y = (torch.randn(ROWS, width, generator=generator).to(like) for width in (3, 2))
    return GENTLY * (net(x) - y).square().mean()


def train(
    net: nn.Module, optimizer: Optimizer, steps: Sequence[int], sign: float = 1.0, **how: Any
) -> list[Tensor]:
    """Make ``steps``, numbers of batches, on the loss times ``sign``; ``how`` goes to
    ``zero_grad``. Returns the weights after them, (...) each."""
    for k in steps:
        optimizer.zero_grad(**how)
        (sign * net_loss(net, k)).backward()
        optimizer.step()
    return weights_of(net)


def trained(make: Make, seed: int, steps: Sequence[int] = range(STEPS), **how: Any) -> list[Tensor]:
    """The weights, (...) each, of a net that an optimizer of ``make`` trained; see ``train``."""
    net = SmallNet(seed)
    return train(net, make(list(net.parameters()), net), steps, **how)


def weights_of(net: nn.Module) -> list[Tensor]:
    """Copies of the weights, (...) each, in order."""
    return [p.detach().clone() for p in net.parameters()]


def difference(ours: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference of tensors (...) that belong together; NaN if there is one."""
    pairs = zip(ours, others, strict=True)
    return largest((a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel())
