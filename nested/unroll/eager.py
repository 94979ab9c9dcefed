"""K differentiable inner steps, the readable way: the reference for all other backends.

Source: Maclaurin et al. 2015 (arXiv 1502.03492), hypergradients through every step of training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value

from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.rule import Step, UpdateRule
from nested.support.autograd import ForwardMode, in_transform
from nested.unroll.inputs import check_loss, check_step
from nested.unroll.plain_nets import PlainLoss
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
    """Make ``len(batches)`` moves of ``rule``; see ``nested.unroll`` for the meaning of each part.

    The one loop behind everything: forward pass, gradient, move. ``loss_fn`` returns a scalar, ();
    with ``time_dim=1`` it returns one loss per task, (T,), ``rule`` moves T tasks, and losses come
    back as (T, K). Raises ``TypeError`` or ``ValueError`` for a loss that is no
    scalar, or a rule whose ``Step`` is not shaped as its params.
    """
    losses, signals, step = [], [], Step(params, state, {})  # K of the first two
    for batch in batches:
        loss, grads = inner_gradient(
            loss_fn, step.params, batch, differentiable, first_order, time_dim
        )
        # the last weights go only now: small tensors of the gradient would fill their place
        params, state = step.params, step.state
        with torch.set_grad_enabled(differentiable):
            step = rule(params, grads, state, loss)
        del grads
        check_step(step, params)
        losses.append(loss)
        signals.append(step.signals)
    with torch.set_grad_enabled(differentiable):
        return stack_trajectory(step.params, step.state, losses, signals, time_dim)


def inner_gradient(
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    differentiable: bool = True,
    first_order: bool = False,
    time_dim: int = 0,
) -> tuple[Tensor, Params]:
    """The loss at ``params``, () or (T,), and its gradient {name: (...)}: both in their graph, or
    neither if not ``differentiable``, or the loss alone with ``first_order``. Raises ``TypeError``
    or ``ValueError`` for a loss that is no scalar."""
    if in_transform():  # around this whole unroll, such as torch.func.jvp
        with ForwardMode():
            return functional_gradient(
                loss_fn, params, batch, differentiable, first_order, time_dim
            )
    # a weight outside every graph still needs a gradient; one inside keeps its graph
    points = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in params.items()}
    if isinstance(loss_fn, PlainLoss) and not (differentiable and first_order):
        with torch.set_grad_enabled(differentiable):
            found = loss_fn.with_gradient(points, batch)
        if found is not None:  # a plain net's are written out, for speed
            return found
    with torch.enable_grad():  # levels 1-3 need their gradient in a roll-out too
        # each name a tensor of its own: two may share one, or depend on each other
        points = {name: p.view_as(p) for name, p in points.items()}
        loss = loss_fn(points, batch)
        check_loss(loss, dims=time_dim)
        grads = torch.autograd.grad(
            loss.sum() if time_dim else loss,  # of T tasks each has its own gradient in the sum
            tuple(points.values()),
            create_graph=differentiable and not first_order,
            retain_graph=differentiable,
            materialize_grads=True,  # a weight that the loss does not use has a zero gradient
        )
    return loss if differentiable else loss.detach(), dict(zip(points, grads, strict=True))


def functional_gradient(
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    differentiable: bool = True,
    first_order: bool = False,
    time_dim: int = 0,
) -> tuple[Tensor, Params]:
    """As ``inner_gradient``, by ``torch.func``: for use inside its transforms and the compiler.

    Returns the loss, () or (T,), and its gradient {name: (...)}. Raises what ``inner_gradient``
    raises.
    """

    def total(points: Params) -> tuple[Tensor, Tensor]:
        loss = loss_fn(points, batch)
        check_loss(loss, dims=time_dim)
        return loss.sum(), loss

    grads, (_, loss) = grad_and_value(total, has_aux=True)(params)
    if first_order or not differentiable:
        grads = {name: grad.detach() for name, grad in grads.items()}
    return loss if differentiable else loss.detach(), grads
