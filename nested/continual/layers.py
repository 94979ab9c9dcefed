"""Multi-frequency layers: each part of the net moves at its own clock.

Letters: B examples of a batch. Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 70-71.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nested.continual.strategy import Strategy
from nested.optim import NestedOptimizer


class Layers(Strategy):
    """Moves the parts of ``net`` after 1, 4, 16, ... batches, from the output to the input, by the
    mean of the gradients since. The last part, the head, moves with the part before it.

    ``period`` is the factor between neighbours. With 1 this is fine-tuning."""

    def __init__(self, net: nn.Module, *, period: int = 4, **settings: float) -> None:
        self.period = period
        super().__init__(net, **settings)
        self.moves = {group["name"]: 0 for group in self.optimizer.param_groups}

    def new_optimizer(self, lr: float) -> torch.optim.Optimizer:
        groups = layer_groups(self.net, self.period)
        return NestedOptimizer(groups, torch.optim.SGD, reduction="mean", lr=lr)

    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        self.moves = self.optimizer.moves()


def layer_groups(net: nn.Module, period: int) -> list[dict]:
    """Make a group of weights of each part of ``net``, with its "name" and its "period"."""
    parts = [(name, list(part.parameters())) for name, part in net.named_children()]
    parts = [(name, weights) for name, weights in parts if weights]
    last = len(parts) - 2  # the part before the head
    return [
        {"params": weights, "name": name, "period": period ** max(0, last - i)}
        for i, (name, weights) in enumerate(parts)
    ]
