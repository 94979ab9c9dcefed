"""Multi-frequency layers: each part of the net moves at its own clock.

Letters: B examples of a batch. Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 70-71.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nested.continual.strategy import LR_RANGE, Strategy
from nested.optim import NestedOptimizer


class Layers(Strategy):
    """Moves the parts of ``net`` after 1, 4, 16, ... batches, from the output to the input, by the
    sum of the gradients since. The last part, the head, moves with the part before it.

    ``period`` is the factor between neighbours. With 1 this is fine-tuning. A sum that waits counts
    as stored."""

    ranges: Mapping[str, tuple[float, float]] = {"lr": (0.003, LR_RANGE[1])}

    def __init__(self, net: nn.Module, *, period: int = 4, **settings: float) -> None:
        self.period = period
        super().__init__(net, **settings)
        self.moves = {group["name"]: 0 for group in self.optimizer.param_groups}

    def new_optimizer(self, lr: float) -> torch.optim.Optimizer:
        return NestedOptimizer(self.groups(), torch.optim.SGD, lr=lr)

    def groups(self) -> list[dict]:
        """Return groups of weights with their "name" and "period"."""
        return layer_groups(self.net, self.period)

    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        self.moves = self.optimizer.moves()

    def numbers_stored(self) -> int:
        waiting = [group["params"] for group in self.optimizer.param_groups if group["period"] > 1]
        return sum(weight.numel() for weights in waiting for weight in weights)


def layer_groups(net: nn.Module, period: int) -> list[dict]:
    """Make a group of weights of each part of ``net``, with its "name" and its "period"."""
    parts = [(name, list(part.parameters())) for name, part in net.named_children()]
    parts = [(name, weights) for name, weights in parts if weights]
    last = len(parts) - 2  # the part before the head
    return [
        {"params": weights, "name": name, "period": period ** max(0, last - i)}
        for i, (name, weights) in enumerate(parts)
    ]
