"""The baselines of a race for speed: six optimizers, each with its rate constant or along a cosine.

Letters: C candidates, T tasks, K inner steps. Source: ``torch.optim``; every one is tuned for the
horizon raced (Metz et al. 2020, arXiv 2009.11243), for its *final* loss, which is what is chased.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nested.meta.baselines import HandMade

RATES = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.08, 0.15, 0.4, 1.2)
SGD_RATES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0, 5.0)


class MuonOfTasks(Optimizer):
    """``torch.optim.Muon``, without decay, on each task's matrices among weights (T, ...), and
    ``torch.optim.AdamW`` on all other weights, at one ``lr``: the usual pair. Raises ``ValueError``
    for no parameters."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})
        self.slices: list[list[tuple[Tensor, Tensor, int]]] = []
        self.parts: list[list[Optimizer]] = []
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.dim() == 3]
            slices = [(p[t], p, t) for p in matrices for t in range(len(p))]
            others = [p for p in group["params"] if p.dim() != 3]
            how = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
            parts = [torch.optim.Muon([s for s, _, _ in slices], **how)] if slices else []
            parts += [torch.optim.AdamW(others, weight_decay=0.0)] if others else []
            self.slices.append(slices)
            self.parts.append(parts)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move all weights once; takes no closure. Raises ``AttributeError`` without gradients."""
        for group, slices, parts in zip(self.param_groups, self.slices, self.parts):
            for one, p, t in slices:
                one.grad = p.grad[t]
            for part in parts:
                part.param_groups[0]["lr"] = group["lr"]
                part.step()


def _grid(
    optimizer: type[Optimizer], rates: tuple[float, ...], *settings: dict[str, Any]
) -> Callable[[int], list[HandMade]]:
    def candidates(horizon: int) -> list[HandMade]:
        return [
            HandMade(optimizer, own, {"lr": [rate * share for share in shares]})
            for own in settings
            for rate in rates
            for shares in ([1.0] * horizon, _cosine(horizon))
        ]

    return candidates


def _cosine(horizon: int) -> list[float]:
    return [(1 + math.cos(math.pi * k / horizon)) / 2 for k in range(horizon)]


MOMENTA = ({"momentum": 0.5}, {"momentum": 0.8}, {"momentum": 0.93})
BETAS = ({"betas": (0.8, 0.99)}, {"betas": (0.9, 0.99)}, {"betas": (0.9, 0.999)})
TUNED: dict[str, Callable[[int], list[HandMade]]] = {
    "SGD": _grid(torch.optim.SGD, SGD_RATES, *MOMENTA),
    "Nesterov": _grid(torch.optim.SGD, SGD_RATES, *({**m, "nesterov": True} for m in MOMENTA)),
    "RMSprop": _grid(torch.optim.RMSprop, RATES, {"alpha": 0.9}, {"alpha": 0.99}),
    "Adam": _grid(torch.optim.Adam, RATES, *BETAS),
    "AdamW": _grid(torch.optim.AdamW, RATES, *({**b, "weight_decay": 0.1} for b in BETAS)),
    "Muon": _grid(MuonOfTasks, RATES, {}),
}
