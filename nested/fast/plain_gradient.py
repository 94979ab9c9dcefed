"""The gradient of a plain net written out, and what a hypergradient needs of it: H v.

Autograd finds both for any model; for linear layers and activations a few lines find them with half
the operations. Through an inner gradient g(w) a cotangent v goes back as H v: the Hessian, which is
symmetric, times a vector. Source: Pearlmutter 1994, "Fast Exact Multiplication by the Hessian": the
forward and the backward pass, differentiated in the direction v. That derivative of x, his R{x}, is
``r_x`` here.

A net has layers l = 1 ... L, z_l = W_l x_(l-1) + b_l and x_l = a_l(z_l), with no activation after
the last. Letters: T tasks, B rows, D inputs and C outputs. Every tensor may have a leading T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, log_softmax, nll_loss

IGNORED = -100  # the label that PyTorch's cross entropy leaves out


class Activation(NamedTuple):
    """x = value(z); back(d, x) = d a'(z); bend(x) = a''(z) / a'(z), or None where that is 0."""

    value: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]
    bend: Callable[[Tensor], Tensor] | None


def _back_of_tanh(d: Tensor, x: Tensor) -> Tensor:  # d (1 - x^2)
    return torch.addcmul(d, d * x, x, value=-1)


def _back_of_sigmoid(d: Tensor, x: Tensor) -> Tensor:  # d (x - x^2)
    return torch.addcmul(d * x, d * x, x, value=-1)


ACTIVATIONS = {
    nn.Tanh: Activation(torch.tanh, _back_of_tanh, lambda x: -2 * x),
    nn.Sigmoid: Activation(torch.sigmoid, _back_of_sigmoid, lambda x: 1 - 2 * x),
    nn.ReLU: Activation(torch.relu, lambda d, x: d * torch.sign(x), None),  # x >= 0
}


class Net(NamedTuple):
    """What is constant of a net: the L - 1 activations, and cross entropy or mean squared error."""

    activations: Sequence[Activation]
    criterion: Callable[[Tensor, Tensor], Tensor]


def loss_and_gradient(
    net: Net, weights: Sequence[Tensor | None], inputs: Tensor, targets: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss, () or (T,), and its gradient by each of ``weights``: weight (C, D) and bias
    (C,), or None, of every linear layer in turn. ``inputs`` are (B, D), ``targets`` (B,) labels or
    (B, C) numbers. With gradients enabled both results are in the graph of the weights, to any
    order. Raises what PyTorch does."""
    # z_1 by autograd, which need not keep this weight, often the largest, for it
    z = linear(inputs, *weights[:2]) if inputs.dim() == 2 else _affine(inputs, *weights[:2])
    has_bias = weights[1] is not None
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # which derives by itself
        return _passes(net, inputs, targets, has_bias, z, weights[2:])[:2]
    loss, *grads = _LossAndGradient.apply(net, inputs, targets, has_bias, z, *weights[2:])
    return loss, grads


class _LossAndGradient(torch.autograd.Function):
    """A function of z_1 and of the weights after it: what depends on others goes through z_1."""

    @staticmethod
    def forward(
        ctx: Any,
        net: Net,
        inputs: Tensor,
        targets: Tensor,
        has_bias: bool,
        z: Tensor,
        *weights: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        loss, grads, stored = _passes(net, inputs, targets, has_bias, z, weights)
        ctx.net, ctx.has_bias = net, has_bias
        ctx.save_for_backward(inputs, targets, z, *weights, *stored)
        ctx.set_materialize_grads(False)
        return loss, *grads

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor | None, *vectors: Tensor | None) -> tuple:
        inputs, targets, z, *saved = ctx.saved_tensors
        weights, stored = saved[: len(vectors) - 2], saved[len(vectors) - 2 :]
        if torch.is_grad_enabled():  # a third derivative: these too depend on z and weights
            stored = _passes(ctx.net, inputs, targets, ctx.has_bias, z, weights)[2]
        first, bias, *vectors = vectors
        first = torch.zeros_like(z).mT @ inputs if first is None else first
        vectors = [
            torch.zeros_like(w) if v is None and w is not None else v
            for v, w in zip(vectors, weights, strict=True)
        ]
        r_z = _affine(inputs, first, bias)
        out = _hessian_product(ctx.net, weights, stored, d_loss, r_z, vectors)
        return None, None, None, None, *out


def _passes(
    net: Net,
    inputs: Tensor,
    targets: Tensor,
    has_bias: bool,
    z: Tensor,
    weights: Sequence[Tensor | None],
) -> tuple[Tensor, list[Tensor | None], list[Tensor]]:
    """A forward and a backward pass from z_1 (B, C) on: the loss, its gradient by every weight and
    bias, the first ones among them, and what the Hessian needs to know of all this."""
    xs = []
    for layer, activation in enumerate(net.activations):
        xs.append(activation.value(z))
        z = _affine(xs[-1], *weights[2 * layer : 2 * layer + 2])
    score = _cross_entropy if net.criterion is cross_entropy else _mean_squared_error
    loss, d_z, curvature = score(z, targets)
    grads, d_zs = [], [d_z]
    for layer in reversed(range(len(xs))):
        weight, bias = weights[2 * layer : 2 * layer + 2]
        grads += [None if bias is None else d_z.sum(-2), d_z.mT @ xs[layer]]
        d_z = net.activations[layer].back(d_z @ weight, xs[layer])
        d_zs.append(d_z)
    grads += [d_z.sum(-2) if has_bias else None, d_z.mT @ inputs]
    return loss, grads[::-1], [*xs, *d_zs[::-1], *curvature]


def _hessian_product(
    net: Net,
    weights: Sequence[Tensor | None],
    stored: Sequence[Tensor],
    d_loss: Tensor | None,
    r_z: Tensor,
    vectors: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradient times ``d_loss`` plus the Hessian times the direction in which z_1 changes by
    ``r_z`` and the weights by ``vectors``: by z_1, then by weight."""
    count = len(net.activations)
    xs, d_zs, curvature = stored[:count], stored[count : 2 * count + 1], stored[2 * count + 1 :]
    r_zs, r_xs = [r_z], []
    for layer in range(count):  # r_x = a' r_z,  r_z = V x + v + W r_x
        r_xs.append(net.activations[layer].back(r_zs[-1], xs[layer]))
        direct_change = _affine(xs[layer], *vectors[2 * layer : 2 * layer + 2])
        r_zs.append(_add_product(direct_change, r_xs[-1], weights[2 * layer].mT))
    r_d = _change_of_score(r_zs[-1], curvature)
    if d_loss is not None:  # what multiplies the gradient itself goes back along the same way
        r_d = torch.addcmul(r_d, d_zs[-1], d_loss[:, None, None] if d_loss.dim() else d_loss)
    out = []
    for layer in reversed(range(count)):
        d_z, weight, bias = d_zs[layer + 1], *weights[2 * layer : 2 * layer + 2]
        by_bias = None if bias is None else r_d.sum(-2)
        out += [by_bias, _add_product(r_d.mT @ xs[layer], d_z.mT, r_xs[layer])]
        # of d_z' = a' (d_z W)
        _, back, bend = net.activations[layer]
        r_d = back(_add_product(r_d @ weight, d_z, vectors[2 * layer]), xs[layer])
        if bend is not None:
            r_d = torch.addcmul(r_d, d_zs[layer] * bend(xs[layer]), r_zs[layer])
    return [r_d, *out[::-1]]


def _cross_entropy(z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The loss of outputs ``z`` (B, C), its gradient d_z, and what d_z changes with."""
    log_p = log_softmax(z, -1)
    counted = targets != IGNORED
    count = counted.sum(-1, keepdim=True, dtype=z.dtype)
    if targets.dim() == 1:
        loss = nll_loss(log_p, targets)
    else:  # a mean for each task
        each = nll_loss(log_p.flatten(0, 1), targets.flatten(), reduction="none")
        loss = each.view_as(targets).sum(-1) / count.squeeze(-1)
    share = counted / count.clamp(min=1)  # (B,): 1 / B where counted
    # d_z = (p - right) / B
    p, rows = log_p.exp(), share.unsqueeze(-1)
    d_z = (p * rows).scatter_add_(-1, (targets * counted).unsqueeze(-1), -rows)
    return loss, d_z, [p, rows]


def _mean_squared_error(z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    apart = z - targets
    return (apart * apart).mean((-2, -1)), apart * _slope_of_squares(z), []


def _change_of_score(r_z: Tensor, curvature: Sequence[Tensor]) -> Tensor:
    """How d_z changes with z in the direction ``r_z`` (B, C)."""
    if not curvature:  # mean squared error
        return r_z * _slope_of_squares(r_z)
    p, rows = curvature
    # r_p = p (r_z - <p, r_z>)
    weighted = p * r_z
    return (weighted - p * weighted.sum(-1, keepdim=True)) * rows


def _slope_of_squares(z: Tensor) -> float:
    return 2 / (z.shape[-1] * z.shape[-2])


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight.mT if bias is None else _add_product(bias.unsqueeze(-2), x, weight.mT)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (torch.addmm if a.dim() == 2 else torch.baddbmm)(total, a, b)
