"""Replay: rehearse examples of the past beside each batch.

Letters: B examples of a batch. Source: Chaudhry et al. 2019 (arXiv 1902.10486), "ER-Reservoir".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nested.continual.reservoir import Reservoir, slots_for
from nested.continual.strategy import Strategy, tasks_of


class Replay(Strategy):
    """Each step also lowers the loss of ``rehearsed`` stored examples, drawn anew. The examples
    fill ``budget``, and each example of the stream is as likely to be stored as any other."""

    def __init__(self, net: nn.Module, *, rehearsed: int = 10, **settings: Any) -> None:
        super().__init__(net, **settings)
        self.rehearsed, self.memory = rehearsed, Reservoir(0)

    def loss(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        if not len(self.memory):
            return super().loss(x, y, task)
        old_x, old_y, tasks = self.memory.draw(self.generator, self.rehearsed)
        logits, old = self.net(torch.cat([x, old_x])).split([len(x), len(old_x)])
        return self.criterion(logits, y, task) + self.criterion(old, old_y, tasks)

    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        super().after_step(x, y, task)
        if not self.memory.seen:
            self.memory = Reservoir(self.free_slots(x))
        self.remember(x, y, tasks_of(y, task))

    def remember(self, x: Tensor, y: Tensor, tasks: Tensor) -> None:
        """Store examples x (B, ...) with their labels y (B,) and ``tasks`` (B,)."""
        self.memory.add(self.generator, x, y, tasks)

    def free_slots(self, x: Tensor) -> int:
        """How many examples like those of x (B, ...) fit into the budget."""
        return slots_for(self.budget, x, 2)

    def numbers_stored(self) -> int:
        return self.memory.numbers()

    def parts(self) -> dict[str, Any]:
        return {**super().parts(), "memory": self.memory}
