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
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

IGNORED = -100  # the label that PyTorch's cross entropy leaves out


class Activation(NamedTuple):
    """x = value(z), its slope a'(z) and its bend a''(z) / a'(z), None for 0, as functions of x."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor], Tensor] | None


ACTIVATIONS = {
    nn.Tanh: Activation(torch.tanh, lambda x: 1 - x * x, lambda x: -2 * x),
    nn.Sigmoid: Activation(torch.sigmoid, lambda x: x - x * x, lambda x: 1 - 2 * x),
    nn.ReLU: Activation(torch.relu, torch.sign, None),  # x >= 0
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
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # which derives by itself
        return _passes(net, weights, inputs, targets)[:2]
    loss, *grads = _LossAndGradient.apply(net, inputs, targets, *weights)
    return loss, grads


class _LossAndGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, net: Net, inputs: Tensor, targets: Tensor, *weights: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        loss, grads, seen = _passes(net, weights, inputs, targets)
        ctx.net = net
        ctx.save_for_backward(inputs, targets, *weights, *seen)
        ctx.set_materialize_grads(False)
        return loss, *grads

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor | None, *vectors: Tensor | None) -> tuple:
        count = len(vectors)
        inputs, targets, *saved = ctx.saved_tensors
        weights, seen = saved[:count], saved[count:]
        if torch.is_grad_enabled():  # a third derivative: all that was seen depends on the weights
            seen = _passes(ctx.net, weights, inputs, targets)[2]
        return None, None, None, *_hessian_product(ctx.net, weights, seen, d_loss, vectors)


def _passes(
    net: Net, weights: Sequence[Tensor | None], inputs: Tensor, targets: Tensor
) -> tuple[Tensor, list[Tensor | None], list[Tensor]]:
    """A forward and a backward pass: the loss, the gradient, and what the Hessian needs of them."""
    xs, slopes = [inputs], []
    for layer, activation in enumerate(net.activations):
        xs.append(activation.value(_affine(xs[-1], *weights[2 * layer : 2 * layer + 2])))
        slopes.append(activation.slope(xs[-1]))
    score = _cross_entropy if net.criterion is cross_entropy else _mean_squared_error
    loss, d_z, curvature = score(_affine(xs[-1], *weights[-2:]), targets)
    d_zs, grads = [d_z], []
    for layer in reversed(range(len(xs))):
        weight, bias = weights[2 * layer : 2 * layer + 2]
        grads += [None if bias is None else d_z.sum(-2), d_z.mT @ xs[layer]]
        if layer:
            d_z = (d_z @ weight) * slopes[layer - 1]
            d_zs.append(d_z)
    return loss, grads[::-1], [*xs, *d_zs[::-1], *slopes, *curvature]


def _hessian_product(
    net: Net,
    weights: Sequence[Tensor | None],
    seen: Sequence[Tensor],
    d_loss: Tensor | None,
    vectors: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradient times ``d_loss`` plus the Hessian times ``vectors``, by weight."""
    count = len(net.activations) + 1
    xs, d_zs, slopes = seen[:count], seen[count : 2 * count], seen[2 * count : 3 * count - 1]
    vectors = [
        torch.zeros_like(w) if v is None and w is not None else v for v, w in zip(vectors, weights)
    ]
    r_x, r_xs, r_zs = None, [], []
    for layer in range(count):  # r_z = V x + v + W r_x,  r_x = a' r_z
        r_z = _affine(xs[layer], *vectors[2 * layer : 2 * layer + 2])
        r_zs.append(r_z if r_x is None else _add_product(r_z, r_x, weights[2 * layer].mT))
        if layer < count - 1:
            r_x = r_zs[-1] * slopes[layer]
            r_xs.append(r_x)
    r_d = _change_of_score(r_zs[-1], seen[3 * count - 1 :])
    if d_loss is not None:  # what multiplies the gradient itself goes back along the same way
        r_d = torch.addcmul(r_d, d_zs[-1], d_loss[:, None, None] if d_loss.dim() else d_loss)
    out = []
    for layer in reversed(range(count)):
        product = r_d.mT @ xs[layer]
        if layer:
            product = _add_product(product, d_zs[layer].mT, r_xs[layer - 1])
        out += [None if weights[2 * layer + 1] is None else r_d.sum(-2), product]
        if layer:  # of d_z = a' (d_z W)
            back = _add_product(r_d @ weights[2 * layer], d_zs[layer], vectors[2 * layer])
            r_d, bend = back * slopes[layer - 1], net.activations[layer - 1].bend
            if bend is not None:
                r_d = torch.addcmul(r_d, d_zs[layer - 1] * bend(xs[layer]), r_zs[layer - 1])
    return out[::-1]


def _cross_entropy(z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The loss of outputs ``z`` (B, C), its gradient d_z, and what d_z changes with."""
    log_p = log_softmax(z, -1)
    each = nll_loss(log_p.flatten(0, -2), targets.flatten(), reduction="none").view_as(targets)
    counted = targets != IGNORED
    share = counted / counted.sum(-1, keepdim=True, dtype=z.dtype)  # (B,): 1 / B where counted
    # d_z = (p - right) / B
    p, rows = log_p.exp(), share.unsqueeze(-1)
    d_z = (p * rows).scatter_add_(-1, (targets * counted).unsqueeze(-1), -rows)
    return (each * share).sum(-1), d_z, [p, rows]


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
