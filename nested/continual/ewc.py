"""Elastic weight consolidation: hold the weights that earlier tasks need.

Letters: B examples of a batch, S examples of a sample, P weights.
Source: Kirkpatrick et al. 2017 (arXiv 1612.00796); online, Schwarz et al. 2018 (arXiv 1805.06370).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from nested.continual.reservoir import Reservoir, slots_for
from nested.continual.strategy import LR_RANGE, Strategy, count_weights, weights_of
from nested.levels.forward import Params
from nested.support.checks import check_numbers, check_share


class EWC(Strategy):
    """Pulls each weight back to where the last task left it,

        L + strength / 2 sum_i F_i (w_i - a_i)^2,   F <- decay F + F of the task,

    with a the weights after the last task, and F the diagonal of the Fisher information. F is the
    mean of squared gradients of single examples with their labels. It is computed on a sample of
    the task, which is dropped after the task. The sample has as many examples as fit into
    ``budget`` beside F and a."""

    ranges: Mapping[str, tuple[float, float]] = {"lr": LR_RANGE, "strength": (1e-3, 1e2)}
    saved = (*Strategy.saved, "fisher", "anchor", "sample")

    def __init__(
        self, net: nn.Module, *, strength: float = 100.0, decay: float = 1.0, **settings: Any
    ) -> None:
        super().__init__(net, **settings)
        check_numbers(strength=strength)
        check_share(decay=decay)
        self.strength, self.decay = strength, decay
        self.fisher: Params = {}
        self.anchor: Params = {}
        self.sample = Reservoir(0)

    def loss(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        loss = super().loss(x, y, task)
        return loss + self.penalty() if self.anchor and self.strength else loss

    def penalty(self) -> Tensor:
        """Compute strength / 2 sum_i F_i (w_i - a_i)^2, ()."""
        weights = dict(self.net.named_parameters())
        terms = [(self.fisher[n] * (weights[n] - a) ** 2).sum() for n, a in self.anchor.items()]
        return self.strength / 2 * torch.stack(terms).sum()

    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        super().after_step(x, y, task)
        if not self.sample.size:
            free = self.budget - 2 * count_weights(self.net)
            self.sample = Reservoir(max(1, slots_for(free, x)))
        if not self.is_repeat:
            self.sample.add(self.generator, x, y)

    def end_task(self, task: int) -> None:
        if not len(self.sample):
            return
        known = task if task in self.labels else None
        new = fisher_diagonal(self.net, *self.sample.all(), self.log_loss(known))
        old = self.fisher or {name: torch.zeros_like(part) for name, part in new.items()}
        self.fisher = {name: self.decay * old[name] + part for name, part in new.items()}
        self.anchor, self.sample = weights_of(self.net), Reservoir(self.sample.size)

    def log_loss(self, task: int | None) -> Any:
        """Return the loss of logits (B, C) and labels (B,) in ``task``."""
        return lambda logits, y: cross_entropy(self.masked(logits, task), y)


def fisher_diagonal(net: nn.Module, x: Tensor, y: Tensor, criterion: Any) -> Params:
    """Compute the mean over examples of the squared gradient of ``criterion(logits, labels)``, for
    each weight of ``net``, {name: (...)}.

    The examples x (S, ...) have the labels y (S,). The net is in evaluation mode meanwhile, so that
    no running statistics move."""
    was_training = net.training
    net.eval()
    fixed = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    weights = {name: fixed.pop(name).detach() for name, _ in net.named_parameters()}

    def loss_of(weights: Params, x: Tensor, y: Tensor) -> Tensor:
        return criterion(functional_call(net, {**weights, **fixed}, (x[None],)), y[None])

    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for part_x, part_y in zip(x.split(64), y.split(64)):
        grads = vmap(grad(loss_of), in_dims=(None, 0, 0))(weights, part_x, part_y)
        sums = {name: total + (grads[name] ** 2).sum(0) for name, total in sums.items()}
    net.train(was_training)
    return {name: total / len(x) for name, total in sums.items()}
