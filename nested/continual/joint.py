"""Joint training: the upper bound, which may learn from everything again.

Letters: B examples of a batch, N examples so far. Source: the usual bound of the field.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nested.continual.strategy import CLIP, Strategy, check_batch, tasks_of
from nested.support.checks import check_counts


class Joint(Strategy):
    """Stores every example, whatever the budget. After each task it trains a new net on all of
    them, for ``passes`` passes in mixed order. The rate goes down from pass to pass."""

    saved = (*Strategy.saved, "seen", "batch_size", "first")

    def __init__(self, net: nn.Module, *, passes: int = 5, **settings: Any) -> None:
        super().__init__(net, **settings)
        check_counts(passes=passes)
        self.passes, self.batch_size = passes, 0
        self.seen: list[tuple[Tensor, ...]] = []  # x, y and the task of each example
        self.first = {name: part.clone() for name, part in net.state_dict().items()}

    def observe(self, x: Tensor, y: Tensor, task: int | None = None) -> float:
        check_batch(x, y)
        self.note(y, task)
        if not self.is_repeat:
            self.seen.append((x.clone(), y.clone(), tasks_of(y, task)))
        self.batch_size = max(self.batch_size, len(y))
        return self.loss(x, y, task).item()

    def end_task(self, task: int) -> None:
        if not self.seen:
            return
        self.net.load_state_dict(self.first)
        self.net.train()
        x, y, tasks = (torch.cat(part) for part in zip(*self.seen))
        group, lr = self.optimizer.param_groups[0], self.optimizer.param_groups[0]["lr"]
        for number in range(self.passes):
            group["lr"] = lr * (1 - number / self.passes)
            order = torch.randperm(len(y), generator=self.generator)
            for rows in order.split(self.batch_size):
                self.optimizer.zero_grad()
                self.criterion(self.net(x[rows]), y[rows], tasks[rows]).backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
                self.optimizer.step()
                self.moves["weights"] += 1
        group["lr"] = lr
