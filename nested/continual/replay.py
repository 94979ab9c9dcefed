"""Replay: rehearse examples of the past beside each batch.

Letters: B examples of a batch. Source: Chaudhry et al. 2019 (arXiv 1902.10486), "ER-Reservoir".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nested.continual.reservoir import Reservoir, slots_for
from nested.continual.strategy import LR_RANGE, Strategy, tasks_of
from nested.support.checks import check_counts, check_share


class Replay(Strategy):
    """Each step lowers the loss of a batch and of ``rehearsed`` stored examples, drawn anew:

        2 (1 - weight) L(batch) + 2 weight L(rehearsed).

    The examples fill ``budget``, and each example of the stream is as likely to be stored as any
    other. Without examples this is fine-tuning. Raises ``ValueError`` for a weight that is no share
    from 0 to 1, and as ``Strategy`` does."""

    ranges: Mapping[str, tuple[float, float]] = {"lr": LR_RANGE, "weight": (0.3, 0.9)}
    saved = (*Strategy.saved, "memory")

    def __init__(
        self, net: nn.Module, *, rehearsed: int = 50, weight: float = 0.5, **settings: Any
    ) -> None:
        super().__init__(net, **settings)
        check_counts(rehearsed=rehearsed)
        check_share(weight=weight)
        self.rehearsed, self.weight, self.memory = rehearsed, weight, self.new_memory(0)

    def loss(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        if not len(self.memory):
            logits = self.net(x)
            return self.criterion(logits, y, task) + self.regularised(x, logits)
        old_x, old_y, tasks = self.memory.draw(self.generator, self.rehearsed)
        x = torch.cat([x, old_x])
        logits = self.net(x)
        new, old = logits.split([len(y), len(old_y)])
        new, old = self.criterion(new, y, task), self.criterion(old, old_y, tasks)
        return 2 * (1 - self.weight) * new + 2 * self.weight * old + self.regularised(x, logits)

    def regularised(self, x: Tensor, logits: Tensor) -> Tensor | float:
        """Return what is added to the loss of x (B, ...), which has the ``logits`` (B, C)."""
        return 0.0

    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        super().after_step(x, y, task)
        if not self.memory.seen:
            self.memory = self.new_memory(self.free_slots(x))
        if not self.is_repeat:
            self.remember(x, y, tasks_of(y, task))

    def remember(self, x: Tensor, y: Tensor, tasks: Tensor) -> None:
        """Store examples x (B, ...) with their labels y (B,) and ``tasks`` (B,)."""
        self.memory.add(self.generator, x, y, tasks)

    def new_memory(self, size: int) -> Reservoir:
        """Make an empty memory of ``size`` examples."""
        return Reservoir(size)

    def free_slots(self, x: Tensor) -> int:
        """How many examples like those of x (B, ...) fit into the budget."""
        return slots_for(self.budget, x, 2)
