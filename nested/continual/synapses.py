"""Synaptic intelligence: weights count as important that lowered the loss on their way.

Letters: B examples of a batch. Source: Zenke et al. 2017 (arXiv 1703.04200).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nested.continual.strategy import LR_RANGE, Strategy, weights_of
from nested.support.checks import check_numbers

DAMPING = 1e-3  # of a weight that hardly moved


class Synapses(Strategy):
    """Pulls each weight back to where the last task left it, as strongly as it is important:

        L + strength sum_i O_i (w_i - a_i)^2,   O_i <- O_i + max(0, o_i) / (d_i^2 + damping),

    Here d_i is how far a weight moved in the task. By o_i its moves lowered the loss: minus the
    sum of gradient times move."""

    ranges: Mapping[str, tuple[float, float]] = {"lr": LR_RANGE, "strength": (1e-5, 1.0)}
    saved = (*Strategy.saved, "anchor", "gain", "importance")

    def __init__(self, net: nn.Module, *, strength: float = 1.0, **settings: Any) -> None:
        super().__init__(net, **settings)
        check_numbers(strength=strength)
        self.strength, self.anchor = strength, weights_of(net)
        self.gain = {name: torch.zeros_like(weight) for name, weight in self.anchor.items()}
        self.importance = {name: torch.zeros_like(weight) for name, weight in self.anchor.items()}
        self._slopes: dict[str, Tensor] = {}

    def loss(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        loss, weights = super().loss(x, y, task), dict(self.net.named_parameters())
        slopes = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        self._slopes = dict(zip(weights, slopes))  # of the loss alone
        self._before = weights_of(self.net)
        if not self.strength:
            return loss
        terms = [
            (self.importance[name] * (weights[name] - anchor) ** 2).sum()
            for name, anchor in self.anchor.items()
        ]
        return loss + self.strength * torch.stack(terms).sum()

    @torch.no_grad()
    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        super().after_step(x, y, task)
        for name, weight in self.net.named_parameters():
            self.gain[name] -= self._slopes[name] * (weight - self._before[name])

    def end_task(self, task: int) -> None:
        weights = weights_of(self.net)
        for name, gain in self.gain.items():
            far = (weights[name] - self.anchor[name]) ** 2 + DAMPING
            self.importance[name] += gain.clamp(min=0) / far
            gain.zero_()
        self.anchor = weights
