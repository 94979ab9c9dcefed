"""The meta-loss: what level 4 is scored by.

Letters: T tasks, K inner steps. Source: the summed losses of Andrychowicz et al. 2016 (arXiv
1606.04474), eq. 3; a fresh query batch as in Finn et al. 2017 (arXiv 1703.03400).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.levels.forward import Batch, LossFn
from nested.unroll.registry import loss_over_tasks
from nested.unroll.trajectory import Trajectory

OBJECTIVES = ("mean", "query", "log")
LEAST = 3e-3  # added to losses before their logarithm: under it there is little left to win
QUERY_SHARE = 0.75  # of "log": with half, rules learned to fit 900 digits and not the others


def scored_losses(loss_fn: LossFn, trajectory: Trajectory, query: Batch) -> Tensor:
    """Return (T, K): the loss after each of the K updates, for T tasks, in the loss's own unit.

    ``losses[k]`` is taken before update k, so it scores updates 0 to k - 1: those from 1 on score
    all updates but the last, and the last is scored on ``query`` (T, ...). A mean over
    ``trajectory.losses`` alone would give it no credit, and at K = 1 a hypergradient of zero.
    Raises ``ValueError`` or ``RuntimeError`` for a query batch of another T.
    """
    after_last = loss_over_tasks(loss_fn, trajectory.params)(trajectory.params, query)
    return torch.cat([trajectory.losses[:, 1:], after_last[:, None]], dim=1)


def meta_loss(
    loss_fn: LossFn, trajectory: Trajectory, query: Batch, objective: str = "mean"
) -> Tensor:
    """The scalar, (), in the loss's own unit, that level 4 learns to lower, of T tasks.

    "mean" averages the loss after each of the K updates. "query" takes the loss after the last one.
    "log" weighs their logarithms, a quarter to three quarters. Then tasks count alike whatever the
    size of their loss, and fresh data count most. Anything else raises ``ValueError``.
    """
    return task_losses(loss_fn, trajectory, query, objective).mean()


def task_losses(
    loss_fn: LossFn, trajectory: Trajectory, query: Batch, objective: str = "mean"
) -> Tensor:
    """As ``meta_loss``, for each of T tasks, (T,); raises ``ValueError`` for another objective."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is one of {OBJECTIVES}, but got {objective!r}")
    losses = scored_losses(loss_fn, trajectory, query)
    if objective == "mean":
        return losses.mean(dim=1)
    if objective == "query":
        return losses[:, -1]
    logs = (losses + LEAST).log()
    return (1 - QUERY_SHARE) * logs.mean(dim=1) + QUERY_SHARE * logs[:, -1]
