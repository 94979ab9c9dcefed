"""Dark experience replay: rehearse examples, and what the net answered when they came.

Letters: B examples of a batch, C classes. Source: DER++, Buzzega et al. 2020 (arXiv 2004.07211).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nested.continual.replay import Replay
from nested.continual.reservoir import slots_for
from nested.continual.strategy import LR_RANGE
from nested.support.checks import check_numbers


class DarkReplay(Replay):
    """A step lowers the loss of the batch and two more terms, each on stored examples drawn anew.
    One is ``alpha`` times the squared distance to their logits. The other is ``beta`` times the
    loss of their labels."""

    ranges: Mapping[str, tuple[float, float]] = {
        "lr": LR_RANGE,
        "alpha": (0.1, 2.0),
        "beta": (0.3, 10.0),
    }

    def __init__(
        self, net: nn.Module, *, alpha: float = 0.5, beta: float = 1.0, **settings: Any
    ) -> None:
        super().__init__(net, **settings)
        check_numbers(alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta
        self._logits: Tensor | None = None

    def loss(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        logits = self.net(x)
        self._logits = logits.detach()
        loss = self.criterion(logits, y, task)
        if len(self.memory):
            old_x, _, _, old_logits = self.memory.draw(self.generator, self.rehearsed)
            loss = loss + self.alpha * mse_loss(self.net(old_x), old_logits)
            old_x, old_y, tasks, _ = self.memory.draw(self.generator, self.rehearsed)
            loss = loss + self.beta * self.criterion(self.net(old_x), old_y, tasks)
        return loss

    def remember(self, x: Tensor, y: Tensor, tasks: Tensor) -> None:
        self.memory.add(self.generator, x, y, tasks, self._logits)

    def free_slots(self, x: Tensor) -> int:
        return slots_for(self.budget, x, 2 + self._logits.shape[1])
