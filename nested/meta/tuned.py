"""Every grid of hand-made optimizers: what a race tunes before it compares.

Letters: T tasks, K inner steps. A grid is a function from the horizon K, in inner steps, to its
candidates; ``tune`` in ``baselines.py`` picks the best of them. ``BASELINES`` are the demo's, for
the mean loss of a run; ``TUNED`` are for a race to a low final loss. Each has its own ranges, on
which the published numbers rest.

Source: ``torch.optim``; tuning for the horizon raced, as Metz et al. 2020 (arXiv 2009.11243) do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nested.meta.baselines import HandMade, scheduled_sgd

Grid = Callable[[int], list[HandMade]]
Settings = Sequence[dict[str, Any]]


class MuonOfTasks(Optimizer):
    """Move T tasks' matrices by ``torch.optim.Muon``, and all other weights by AdamW.

    Weights have shapes (T, ...); Muon moves each task's matrix alone. Both optimizers have no
    weight decay and one ``lr``: the usual pair. Raises ``ValueError`` for no parameters."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})
        self.slices: list[list[tuple[Tensor, Tensor, int]]] = []
        self.parts: list[list[Optimizer]] = []
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.dim() == 3]
            slices = [(p[t], p, t) for p in matrices for t in range(len(p))]
            others = [p for p in group["params"] if p.dim() != 3]
            settings = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
            parts = [torch.optim.Muon([s for s, _, _ in slices], **settings)] if slices else []
            parts += [torch.optim.AdamW(others, weight_decay=0.0)] if others else []
            self.slices.append(slices)
            self.parts.append(parts)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move all weights once; takes no closure. Raises ``AttributeError`` without gradients."""
        for group, slices, parts in zip(self.param_groups, self.slices, self.parts):
            for matrix, p, t in slices:
                matrix.grad = p.grad[t]
            for part in parts:
                part.param_groups[0]["lr"] = group["lr"]
                part.step()


def constant_rates(optimizer: type[Optimizer], rates: Sequence[float], settings: Settings) -> Grid:
    """Return the grid of each of ``rates`` with each of ``settings``, the same for any horizon.

    A rate is weight change per inner step and unit of the optimizer's direction."""

    def candidates(horizon: int) -> list[HandMade]:
        return [HandMade(optimizer, {"lr": rate, **s}) for s in settings for rate in rates]

    return candidates


def constant_or_cosine(
    optimizer: type[Optimizer], rates: Sequence[float], settings: Settings
) -> Grid:
    """Return the grid of ``constant_rates``, with each candidate also along a cosine to 0."""
    constants = constant_rates(optimizer, rates, settings)

    def candidates(horizon: int) -> list[HandMade]:
        shares = [(1 + math.cos(math.pi * k / horizon)) / 2 for k in range(horizon)]
        cosines = []
        for candidate in constants(horizon):
            settings = dict(candidate.settings)
            rate = settings.pop("lr")
            cosines.append(HandMade(optimizer, settings, {"lr": [rate * s for s in shares]}))
        return [*constants(horizon), *cosines]

    return candidates


def decays(horizon: int) -> list[HandMade]:
    """Return 64 exponential decays of rate and momentum, over ``horizon`` inner steps.

    There are 4 rates x 4 ratios of the last rate to the first x 4 momenta with their ratios."""
    grid = []
    for lr in (0.2, 0.5, 1.0, 2.0):
        for lr_ratio in (1 / 30, 1 / 10, 1 / 3, 1.0):
            for momentum, momentum_ratio in ((0.3, 1.0), (0.8, 1.0), (0.93, 1.0), (0.93, 0.6)):
                rates = _exponential(lr, lr_ratio, horizon)
                momenta = _exponential(momentum, momentum_ratio, horizon)
                grid.append(scheduled_sgd(rates, momenta))
    return grid


def _exponential(start: float, ratio: float, horizon: int) -> list[float]:
    return [start * ratio ** (k / max(horizon - 1, 1)) for k in range(horizon)]


def _each(name: str, values: Iterable[Any], **others: Any) -> Settings:
    return [{name: value, **others} for value in values]


SGD, Adam, RMSprop = torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop

# For the mean loss.
LRS = (0.03, 0.07, 0.15, 0.3, 0.6, 1.2, 2.5)
ADAPTIVE_LRS = (1e-3, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5, 1.5)
MOMENTA = (0.0, 0.5, 0.7, 0.8, 0.93, 0.98)
NESTEROV_MOMENTA = (0.5, 0.8, 0.93, 0.98)  # 0 is not allowed
BETAS = ((0.5, 0.999), (0.7, 0.999), (0.8, 0.999), (0.9, 0.999))
BASELINES: dict[str, Grid] = {
    "best constant": constant_rates(SGD, LRS, _each("momentum", MOMENTA)),
    "best decay": decays,
    "Nesterov": constant_rates(SGD, LRS, _each("momentum", NESTEROV_MOMENTA, nesterov=True)),
    "RMSprop": constant_rates(RMSprop, ADAPTIVE_LRS, _each("alpha", (0.8, 0.9, 0.99))),
    "Adam": constant_rates(Adam, ADAPTIVE_LRS, _each("betas", BETAS)),
}

# For the final loss.
FINAL_LRS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0, 5.0)
FINAL_ADAPTIVE_LRS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.08, 0.15, 0.4, 1.2)
FINAL_MOMENTA = (0.5, 0.8, 0.93)
FINAL_BETAS = ((0.8, 0.99), (0.9, 0.99), (0.9, 0.999))
TUNED: dict[str, Grid] = {
    "SGD": constant_or_cosine(SGD, FINAL_LRS, _each("momentum", FINAL_MOMENTA)),
    "Nesterov": constant_or_cosine(SGD, FINAL_LRS, _each("momentum", FINAL_MOMENTA, nesterov=True)),
    "RMSprop": constant_or_cosine(RMSprop, FINAL_ADAPTIVE_LRS, _each("alpha", (0.9, 0.99))),
    "Adam": constant_or_cosine(Adam, FINAL_ADAPTIVE_LRS, _each("betas", FINAL_BETAS)),
    "AdamW": constant_or_cosine(
        torch.optim.AdamW, FINAL_ADAPTIVE_LRS, _each("betas", FINAL_BETAS, weight_decay=0.1)
    ),
    "Muon": constant_or_cosine(MuonOfTasks, FINAL_ADAPTIVE_LRS, [{}]),
}
