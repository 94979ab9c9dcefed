"""The optimizers to beat: PyTorch's own, run on many tasks at once, and tuned.

A comparison is fair when each is tuned for the horizon raced. ``tuned.py`` has the grids.
Letters: C candidates, T tasks, K inner steps.
Source: ``torch.optim``; tuning as in Metz et al. 2020 (arXiv 2009.11243).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from nested.levels.forward import Batch, LossFn, Params
from nested.support.checks import check_counts
from nested.tasks.family import TaskFamily
from nested.tasks.stack import stack_batch, stack_init
from nested.unroll.gradient import loss_and_gradient
from nested.unroll.registry import loss_over_tasks


@dataclass(frozen=True)
class HandMade:
    """A ``torch.optim`` optimizer with its settings.

    ``schedule`` gives settings step by step, {setting: K numbers}, blind to the losses. A learning
    rate is weight change per inner step and unit of the optimizer's direction."""

    optimizer: type[torch.optim.Optimizer]
    settings: dict[str, Any]
    schedule: dict[str, Sequence[float]] = field(default_factory=dict)

    def at(self, step: int) -> dict[str, Any]:
        """The settings at inner step ``step``, counted from 0; raises ``IndexError`` past the end
        of a schedule."""
        return self.settings | {name: values[step] for name, values in self.schedule.items()}

    def describe(self) -> str:
        """The settings in one line; a schedule by its first and last value."""
        parts = [f"{name} {_short(value)}" for name, value in self.settings.items()]
        for name, values in self.schedule.items():
            parts.append(f"{name} {_short(values[0])} to {_short(values[-1])}")
        return ", ".join(parts)


class Draw(NamedTuple):
    """T tasks ready to run: everything that is random about them is drawn."""

    loss_fn: LossFn
    params: Params  # {name: (T, ...)}
    batches: list[Batch]  # K of tensors (T, ...)
    query: Batch  # (T, ...)


class Outcome(NamedTuple):
    """The losses (..., T, K + 1) before the first of K updates and after each, and the weights
    {name: (C, T, ...)} after all."""

    losses: Tensor
    params: Params


def draw_tasks(family: TaskFamily, tasks: int, horizon: int, generator: Generator) -> Draw:
    """Draw T = ``tasks`` tasks, with K = ``horizon`` batches and a query batch each.

    All tensors are (T, ...). Raises ``ValueError`` for no tasks or no steps."""
    check_counts(tasks=tasks, horizon=horizon)
    drawn = [family.sample(generator) for _ in range(tasks)]
    params = stack_init(drawn, generator)
    batches = [stack_batch(drawn, generator) for _ in range(horizon)]
    return Draw(drawn[0].loss, params, batches, stack_batch(drawn, generator, "query"))


def run_hand_made(candidates: Sequence[HandMade], draw: Draw) -> Outcome:
    """Run C candidates of one optimizer class on T tasks; losses (C, T, K + 1), params (C, T, ...).

    One ``torch.optim`` optimizer moves them all, with a parameter group per candidate. These
    optimizers treat every coordinate alone, so neither candidates nor tasks can mix. Raises
    ``IndexError`` for no candidates.
    """
    count = len(candidates)
    loss_fn = loss_over_tasks(draw.loss_fn, draw.params)

    def repeat(x: Tensor) -> Tensor:  # (T, ...) -> (C T, ...)
        return x.detach().expand(count, *x.shape).flatten(0, 1)

    params = {name: repeat(p).clone() for name, p in draw.params.items()}
    views = [[p.unflatten(0, (count, -1))[c] for p in params.values()] for c in range(count)]
    groups = [
        {"params": view, **candidate.at(0)}
        for view, candidate in zip(views, candidates, strict=True)
    ]
    optimizer = candidates[0].optimizer(groups)
    losses = []
    for step, batch in enumerate(draw.batches):
        batch = tree_map(repeat, batch)
        loss, grads = loss_and_gradient(loss_fn, params, batch, differentiable=False, dims=1)
        for c, group in enumerate(optimizer.param_groups):
            group.update(candidates[c].at(step))
            for view, grad in zip(views[c], grads.values(), strict=True):
                view.grad = grad.unflatten(0, (count, -1))[c]
        optimizer.step()
        losses.append(loss)
    with torch.no_grad():
        losses.append(loss_fn(params, tree_map(repeat, draw.query)))
    runs = torch.stack(losses, dim=-1), params  # (C T, K + 1) and (C T, ...)
    return Outcome(*tree_map(lambda x: x.unflatten(0, (count, -1)), runs))


def tune(grid: Sequence[HandMade], draw: Draw, score: str = "mean") -> HandMade:
    """Return the candidate with the lowest loss, averaged over tasks.

    The "mean" loss is averaged over all updates, like the meta-loss. The "final" loss is the end of
    the ``smoothed`` curve on the batches trained on, which ``speed_up`` compares. A candidate that
    diverges is never the lowest. Raises ``IndexError`` for an empty grid, ``ValueError`` for
    another ``score``."""
    if score not in ("mean", "final"):
        raise ValueError(f"baselines are tuned for their mean or final loss, but got {score!r}")
    losses = run_hand_made(grid, draw).losses  # (C, T, K + 1)
    scores = losses[..., 1:].mean(-1) if score == "mean" else smoothed(losses[..., :-1])[..., -1]
    means = scores.mean(1)  # (C,)
    return grid[means.nan_to_num(nan=math.inf).argmin().item()]


def smoothed(curve: Tensor) -> Tensor:
    """Average losses (..., K) over a trailing window of a twentieth of the run; returns (..., K).

    The loss of a single batch is too noisy to be an aim. Raises ``IndexError`` for a tensor without
    dimensions."""
    width = max(1, curve.shape[-1] // 20)
    windows = torch.nn.functional.pad(curve, (width - 1, 0)).unfold(-1, width, 1)  # (..., K, width)
    counts = torch.arange(1, curve.shape[-1] + 1, device=curve.device).clamp(max=width)
    return windows.sum(-1) / counts


def scheduled_sgd(lrs: Sequence[float], momenta: Sequence[float]) -> HandMade:
    """SGD with K learning rates (weight change per unit of buffer and inner step) and K momenta
    (no unit), given in advance."""
    return HandMade(torch.optim.SGD, {}, {"lr": list(lrs), "momentum": list(momenta)})


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
