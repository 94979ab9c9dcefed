"""Level 1's gradient inside a loop: the loss and its derivative by the weights, both in the graph.

Letters: T tasks. Source: ``torch.autograd.grad``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.levels.forward import Batch, LossFn, Params
from nested.unroll.inputs import check_loss


def loss_and_gradient(
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    *,
    differentiable: bool = True,
    first_order: bool = False,
    dims: int = 0,
) -> tuple[Tensor, Params]:
    """Compute the loss at ``params`` and its gradient {name: (...)}. The loss is (), or (T,) with
    ``dims=1``.

    Both keep their graph. With ``first_order`` only the loss does. Without ``differentiable``
    neither does.
    A loss may offer ``with_gradient(params, batch)``, which returns the pair itself, or None where
    it cannot. Raises ``TypeError`` or ``ValueError`` for a loss that is no scalar.
    """
    pair = None
    if hasattr(loss_fn, "with_gradient"):
        with torch.set_grad_enabled(differentiable):
            pair = loss_fn.with_gradient(params, batch)
    if pair is None:
        create_graph = differentiable and not first_order
        pair = _by_autograd(loss_fn, params, batch, dims, create_graph, differentiable)
    loss, grads = pair
    if first_order or not differentiable:
        grads = {name: grad.detach() for name, grad in grads.items()}
    return loss if differentiable else loss.detach(), grads


def _by_autograd(
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    dims: int,
    create_graph: bool,
    retain_graph: bool,
) -> tuple[Tensor, Params]:
    with torch.enable_grad():  # a roll-out needs this gradient too
        points = {name: _point(p) for name, p in params.items()}
        loss = loss_fn(points, batch)
        check_loss(loss, dims)
        grads = torch.autograd.grad(
            loss.sum() if dims else loss,  # each task's gradient is its part of the sum's
            tuple(points.values()),
            create_graph=create_graph,
            retain_graph=retain_graph,
            materialize_grads=True,  # a weight that the loss does not use has a zero gradient
        )
    return loss, dict(zip(points, grads, strict=True))


def _point(p: Tensor) -> Tensor:
    """The weight (...) as a tensor of its own: two names may share one, or depend on each other. A
    weight outside every graph needs a gradient too; one inside keeps its graph."""
    return p.view_as(p) if p.requires_grad else p.detach().requires_grad_()
