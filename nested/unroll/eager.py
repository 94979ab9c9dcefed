"""K differentiable inner steps: the one loop of this package, and the reference for all backends.

Letters: K steps, T tasks. Source: Maclaurin et al. 2015 (arXiv 1502.03492), hypergradients through
every step of training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.rule import UpdateRule
from nested.unroll.gradient import loss_and_gradient
from nested.unroll.inputs import check_step
from nested.unroll.trajectory import Trajectory, stack_trajectory


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
    """Make K steps of ``rule`` from ``params`` {name: (...)}, one for each batch.

    Returns a ``Trajectory`` with losses (K,). With ``time_dim=1`` every tensor has a leading T,
    ``loss_fn`` returns one loss per task, (T,), and losses come back as (T, K). ``nested.unroll``
    is the public form, which checks the arguments.
    """
    options = {"differentiable": differentiable, "first_order": first_order, "dims": time_dim}
    losses, signals = [], []
    for batch in batches:
        loss, grads = loss_and_gradient(loss_fn, params, batch, **options)  # level 1
        with torch.set_grad_enabled(differentiable):
            step = rule(params, grads, state, loss)  # level 4 decides, levels 2 and 3 move
        check_step(step, params)
        params, state = step.params, step.state
        losses.append(loss)
        signals.append(step.signals)
    with torch.set_grad_enabled(differentiable):
        return stack_trajectory(params, state, losses, signals, time_dim)
