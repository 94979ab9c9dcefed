"""Speed-up: the steps that one entrant of a race needs to reach the loss where another ended.

Letters: T tasks, K inner steps. Source: steps to a tuned baseline's final loss, as Celo
(arXiv 2501.12670) counts them; intervals by the bootstrap over tasks (Efron 1979).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nested.meta.baselines import smoothed
from nested.meta.race import RaceResult

RESAMPLES = 1000


class SpeedUp(NamedTuple):
    """K / steps needed: 1 if just as fast, 0 if the loss is never reached.

    ``low`` and ``high`` bound 95 in 100 resamplings of the tasks."""

    value: float
    low: float
    high: float


def speed_up(result: RaceResult, name: str, other: str, seed: int = 0) -> SpeedUp:
    """Return by which factor ``name`` is sooner at the loss that ``other`` ends with.

    Losses are smoothed means over tasks, on the batches that both train on; each batch is new.
    Curves are noisy, so a curve against itself can come out a little above 1: show that number
    beside the speed-up. Raises ``KeyError`` for a name that did not race."""
    ours, theirs = (result.entries[n].losses[:, :-1] for n in (name, other))  # (T, K)
    value = _ratio(ours.mean(0, keepdim=True), theirs.mean(0, keepdim=True))
    generator = Generator().manual_seed(seed)
    rows = torch.randint(len(ours), (RESAMPLES, len(ours)), generator=generator)
    counts = torch.zeros(RESAMPLES, len(ours), dtype=torch.float64)
    counts.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
    spread = _ratio(*((counts @ x.double() / len(ours)) for x in (ours, theirs)))
    low, high = spread.quantile(spread.new_tensor([0.025, 0.975])).tolist()
    return SpeedUp(value.item(), low, high)


def final_loss(result: RaceResult, name: str) -> float:
    """The smoothed loss, mean over tasks, that ``name`` ends with, in the task's unit. Raises
    ``KeyError`` for a name that did not race."""
    return smoothed(result.entries[name].losses[:, :-1].mean(0))[-1].item()


def _ratio(ours: Tensor, theirs: Tensor) -> Tensor:
    """Speed-ups (N,) of curves (N, K) against curves (N, K)."""
    horizon = ours.shape[1]
    reached = smoothed(ours) <= smoothed(theirs)[:, -1:]
    first = torch.where(reached.any(1), reached.int().argmax(1).double(), math.inf)
    return horizon / (first + 1)  # losses[k] is after k steps, and the first counts as one
