"""A continuum level's move on few tokens, with its way back written out: a quarter faster.

Autograd would make each of the small products on the way back, and each sum of gradients of
weights, an operation of its own; here those with the same weights are one. The numbers are the
same (``tests/memory/test_continuum_gradient.py``); the equations are ``continuum.learn``'s.
Letters: B samples, C tokens, D width.
Source: ``torch.autograd.Function``; s = SiLU and its slopes as in ``nested.memory.net``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nested.memory.net import at_least, squared

FEW = 32  # tokens: beyond, products are large enough for autograd to be as fast
Learn = Callable[..., tuple[Tensor, Tensor, Tensor]]


def is_worth_it(x: Tensor) -> bool:
    """Whether ``WrittenOut`` may and should read the tokens x (B, C, D): few, with gradients, and
    neither mixed precision nor the compiler, ``torch.func`` or forward derivatives around them."""
    if x.shape[1] > FEW or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    kind = x.device.type
    is_mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    is_forward = torch.autograd.forward_ad._current_level >= 0
    return not (is_mixed or is_forward or torch._C._are_functorch_transforms_active())


class WrittenOut(torch.autograd.Function):
    """From ``learn``, queries, keys and values (B, C, D), rates (B, C, 1) and weights (B, D, D) to
    reads (B, C, D) and the weights after them: ``learn``'s, where chunks start at these weights.
    A gradient that is to be differentiated again is left to autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        learn: Learn,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        rates: Tensor,
        w1: Tensor,
        w2: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = queries.shape[1]
        read = torch.cat([queries, keys], dim=1)  # (B, 2 C, D), as all that both go through
        before = read @ w2.mT
        share = before.sigmoid()
        hidden = before * share
        found = hidden @ w1.mT
        off = found[:, count:] - values
        units, own = hidden[:, count:], share[:, count:]
        slopes = own + units * (1 - own)
        above = off @ w1
        back = above * slopes
        error, steep = squared(off), squared(back)
        curvature = squared(units) + steep / at_least(1e-12, error)
        moves = -rates * curvature.clamp(min=1).reciprocal()
        move1, move2 = moves * off, moves * back
        ctx.learn = learn
        ctx.save_for_backward(
            *(queries, keys, values, rates, w1, w2, read, before, share, hidden, off, slopes),
            *(above, back, error, steep, curvature, moves, move1, move2),
        )
        after = torch.baddbmm(w1, move1.mT, units), torch.baddbmm(w2, move2.mT, keys)
        return found[:, :count].clone(), *after

    @staticmethod
    def backward(ctx: Any, *to: Tensor) -> tuple:
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient is to be differentiated again
            return None, *_by_autograd(ctx.learn, saved[:6], to)
        with torch.autocast(to[0].device.type, enabled=False):
            return None, *_way_back(saved, *to)


def _by_autograd(learn: Learn, inputs: tuple[Tensor, ...], to: tuple[Tensor, ...]) -> list:
    """The gradients of ``inputs`` with a graph, by ``learn``: through this move and no earlier."""
    own = [x.view_as(x) for x in inputs]
    y, change1, change2 = learn(*own)
    outputs = y, own[4] + change1, own[5] + change2
    pairs = [(out, grad) for out, grad in zip(outputs, to, strict=True) if out.requires_grad]
    outputs, to = zip(*pairs)
    asked = [x for x in own if x.requires_grad]
    left = iter(torch.autograd.grad(outputs, asked, to, create_graph=True, allow_unused=True))
    return [next(left) if x.requires_grad else None for x in own]


def _way_back(
    saved: tuple[Tensor, ...], to_y: Tensor, to_w1: Tensor, to_w2: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of queries, keys, values, rates, w1 and w2; "to_x" is dL/dx of the outer L."""
    _, keys, _, rates, w1, w2, read, before, share, hidden, off, slopes, above, back = saved[:14]
    error, steep, curvature, moves, move1, move2 = saved[14:]
    count, zero = to_y.shape[1], to_y.new_zeros(())
    units, own = hidden[:, count:], share[:, count:]
    # the moves: w1 + move1^T units, w2 + move2^T keys, move1, move2 = moves (off, back)
    to_off, to_back = units @ to_w1.mT, keys @ to_w2.mT
    to_moves = (torch.linalg.vecdot(to_off, off) + torch.linalg.vecdot(to_back, back))[..., None]
    share_of_rate = curvature.clamp(min=1).reciprocal()
    # the damping: curvature = |units|^2 + |back|^2 / |off|^2, and at least 1
    to_curvature = to_moves * rates * share_of_rate.square()
    to_curvature = torch.where(curvature >= 1, to_curvature, zero)
    floored = at_least(1e-12, error)
    to_steep = to_curvature / floored
    to_error = torch.where(error >= floored, -to_steep * steep / floored, zero)
    # the inner gradient: back = (off w1) slopes, off = found - values
    to_back = torch.addcmul(to_back * moves, back, 2 * to_steep)
    to_above = to_back * slopes
    to_off = torch.addcmul(to_off * moves, off, 2 * to_error)
    to_off = torch.baddbmm(to_off, to_above, w1.mT)
    # the net, of queries and keys at once: found = hidden w1^T, hidden = s(before)
    to_found = torch.cat([to_y, to_off], dim=1)
    to_hidden = to_found @ w1
    to_hidden[:, count:].baddbmm_(move1, to_w1).addcmul_(units, 2 * to_curvature)
    rest = 1 - share
    to_before = to_hidden * (share + hidden * rest)
    rest = rest[:, count:]  # of slopes: d2s/dz2 = sig (1 - sig) (2 + z (1 - 2 sig))
    bent = own * rest * (2 + before[:, count:] * (rest - own))
    to_before[:, count:].addcmul_(to_back * above, bent)
    to_read = to_before @ w2
    to_keys = torch.baddbmm(to_read[:, count:], move2, to_w2)
    left, right = torch.cat([off, to_found], dim=1), torch.cat([to_above, hidden], dim=1)
    to_w1 = torch.baddbmm(to_w1, left.mT, right)
    to_w2 = torch.baddbmm(to_w2, to_before.mT, read)
    return to_read[:, :count], to_keys, -to_off, -to_moves * share_of_rate, to_w1, to_w2
