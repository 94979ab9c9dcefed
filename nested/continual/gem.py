"""Averaged gradient episodic memory: never step against the gradient of the past.

Letters: B examples of a batch. Source: A-GEM, Chaudhry et al. 2019 (arXiv 1812.00420).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.continual.replay import Replay
from nested.continual.strategy import Strategy


class AveragedGem(Replay):
    """Takes from the gradient g what points against the gradient r of ``rehearsed`` stored
    examples, which come from past tasks and from this one:

        g <- g - (g r) / (r r) r   where g r < 0.
    """

    ranges = Strategy.ranges

    def loss(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        return self.criterion(self.net(x), y, task)

    def before_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        if not len(self.memory):
            return
        weights = list(self.net.parameters())
        old_x, old_y, tasks = self.memory.draw(self.generator, self.rehearsed)
        past = torch.autograd.grad(self.criterion(self.net(old_x), old_y, tasks), weights)
        along = sum((weight.grad * part).sum() for weight, part in zip(weights, past))
        if along < 0:
            size = sum((part**2).sum() for part in past)
            for weight, part in zip(weights, past):
                weight.grad -= along / size * part
