"""K differentiable inner steps, the readable way: the reference for all other backends.

Source: Maclaurin et al. 2015 (arXiv 1502.03492), hypergradients through every step of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.rule import UpdateRule
from nested.unroll.inputs import check_loss, check_step


class Trajectory(NamedTuple):
    """What K inner steps leave behind. With many tasks at once every tensor has a leading T.

    ``losses[k]`` is batch k's loss, in the criterion's unit, at the weights *before* update k;
    ``params`` {name: (...)} and ``state`` are those after all K updates; ``signals`` are what the
    rule chose at each step.
    """

    params: Params
    state: State
    losses: Tensor  # (K,)
    signals: dict[str, Tensor]  # {name: (K, ...)}


def unroll_eager(
    loss_fn: LossFn,
    params: Params,
    batches: Sequence[Batch],
    rule: UpdateRule,
    state: State,
    *,
    differentiable: bool = True,
    first_order: bool = False,
    time_dim: int = 0,
) -> Trajectory:
    """Make ``len(batches)`` moves of ``rule``; see ``nested.unroll`` for the meaning of each part.

    The one loop behind everything: forward pass, gradient, move. ``loss_fn`` returns a scalar, ();
    with ``time_dim=1`` it returns one loss per task, (T,), ``rule`` moves T tasks, and losses come
    back as (T, K). Raises ``TypeError`` or ``ValueError`` for a loss that is no
    scalar, or a rule whose ``Step`` is not shaped as its params.
    """
    losses, signals = [], []  # K of each
    for batch in batches:
        with torch.enable_grad():  # levels 1-3 need their gradient in a roll-out too
            # a weight outside every graph still needs a gradient; one inside keeps its graph
            points = {
                n: p if p.requires_grad else p.detach().requires_grad_() for n, p in params.items()
            }
            loss = loss_fn(points, batch)
            check_loss(loss, dims=time_dim)
            grads = torch.autograd.grad(
                loss.sum() if time_dim else loss,  # of T tasks each has its own gradient in the sum
                tuple(points.values()),
                create_graph=differentiable and not first_order,
                retain_graph=differentiable,
                materialize_grads=True,  # a weight that the loss does not use has a zero gradient
            )
        with torch.set_grad_enabled(differentiable):
            loss = loss if differentiable else loss.detach()
            step = rule(params, dict(zip(points, grads, strict=True)), state, loss)
        check_step(step, params)
        params, state = step.params, step.state
        losses.append(loss)
        signals.append(step.signals)
    with torch.set_grad_enabled(differentiable):
        return stack_trajectory(params, state, losses, signals, time_dim)


def stack_trajectory(
    params: Params,
    state: State,
    losses: list[Tensor],
    signals: list[dict[str, Tensor]],
    time_dim: int = 0,
) -> Trajectory:
    """Join what K steps left, K losses and K dicts of signals, along the dimension ``time_dim``:
    losses (K,) and signals {name: (K, ...)}, or (T, K) and (T, K, ...). Raises ``ValueError`` for
    signals whose names change from step to step, ``RuntimeError`` for shapes that do."""
    if any(chosen.keys() != signals[0].keys() for chosen in signals):
        raise ValueError("the names of the rule's signals change from step to step")
    joined = {name: torch.stack([s[name] for s in signals], time_dim) for name in signals[0]}
    return Trajectory(params, state, torch.stack(losses, time_dim), joined)


def join(parts: Sequence[Trajectory], time_dim: int) -> Trajectory:
    """One trajectory from those of successive windows: losses (K,) or (T, K), with signals alike.
    Raises ``KeyError`` when the names of signals differ."""
    losses = torch.cat([part.losses for part in parts], time_dim)
    names = parts[0].signals
    signals = {name: torch.cat([p.signals[name] for p in parts], time_dim) for name in names}
    return Trajectory(parts[-1].params, parts[-1].state, losses, signals)
