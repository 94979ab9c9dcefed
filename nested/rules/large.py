"""The step of a ``CoordinatewiseRule`` on one large tensor: in place, in blocks, without a graph.

``CoordinatewiseRule.forward`` is the definition; this is its fast form, and a test compares the
two. Extra memory: one tensor of the weights' size, and what ``newton_schulz`` needs.
Letters: n coordinates, R x C of a matrix, S decays, F features of a coordinate, J directions, U
hidden units, N coordinates of a block.
Source: loops in blocks that stay in the cache (Lam, Rothberg and Wolf 1991).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nested.optim.newton_schulz import newton_schulz
from nested.rules.features import (
    CLIP,
    COORDINATE_FEATURES,
    DECAYS,
    DIRECTIONS,
    FAST,
    FLOOR,
    MAIN,
    SLOW,
    SQUARE_DECAY,
    TINY,
    Means,
    Memories,
    Time,
    inverse_root_factors,
    sanitise,
)

BLOCK = 2**14  # coordinates, so that temporary tensors of a block stay in a cache
ROW = {name: row for row, name in enumerate(COORDINATE_FEATURES)}
ADAM = slice(ROW["momentum 0.5 over root V"], ROW["momentum 0.99 over root V"] + 1)
MOMENTA = slice(ROW["momentum 0.5"], ROW["momentum 0.99"] + 1)


class Plan(NamedTuple):
    """What a rule decides for a whole tensor, before it sees single coordinates."""

    blend: Tensor  # (J,), the part of the blend that all coordinates share
    shift: Tensor  # (U,), added to the hidden units
    see: Tensor  # (U, F)
    mix: Tensor  # (J, U)


class Large(NamedTuple):
    """One large tensor of weights, as a vector, with its gradient and its memories."""

    weight: Tensor  # (n,)
    grad: Tensor  # (n,)
    memories: Memories
    time: Time
    shape: tuple[int, int]  # (R, C) of a matrix, or (1, n)
    is_matrix: bool

    @property
    def wide(self) -> torch.dtype:
        """The dtype to compute in: at least float32, as half precision is too coarse."""
        return torch.promote_types(self.weight.dtype, torch.float32)


class Block(NamedTuple):
    """A range of the n coordinates: whole rows of a matrix, or part of one row."""

    flat: slice
    rows: slice
    columns: slice


def blocks_of(rows: int, columns: int) -> Iterator[Block]:
    """Cut a matrix (R, C) into blocks of at most ``BLOCK`` consecutive coordinates."""
    height, width = max(1, BLOCK // columns), min(columns, BLOCK)
    for top in range(0, rows, height):
        bottom = min(top + height, rows)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            flat = slice(top * columns + left, (bottom - 1) * columns + right)
            yield Block(flat, slice(top, bottom), slice(left, right))


def remember_large(large: Large) -> Means:
    """Update the memories of a tensor (R, C) with its gradient, in place, and return its means."""
    (momenta, square), wide = large.memories, large.wide
    decays = torch.tensor([*DECAYS, SQUARE_DECAY], dtype=wide, device=square.device)
    shares, square_share = (1 - decays[:-1]).unsqueeze(-1), 1 - decays[-1]  # (S, 1) and ()
    sums = []
    for flat, _, _ in blocks_of(*large.shape):
        g, w = sanitise(large.grad[flat].to(wide)), large.weight[flat].to(wide)
        # m_s <- b_s m_s + (1 - b_s) g,   V <- b V + (1 - b) g^2
        m = _lerp_in_place(momenta[:, flat], g.expand(len(DECAYS), -1), shares)
        v = _lerp_in_place(square[flat], g * g, square_share)
        of_momenta = [*(x.dot(x) for x in m), v.sum(), g.dot(m[SLOW]), m[FAST].dot(m[SLOW])]
        sums.append(torch.stack([g.dot(g), w.dot(w), *of_momenta]))
    means = torch.stack(sums).sum(0) / len(large.weight)
    g2, w2, m2, v, grad_slow, fast_slow = means.split([1, 1, len(DECAYS), 1, 1, 1])
    unbias = large.time.unbias  # (S, 1)
    return Means(
        grad_square=g2,
        weight_square=w2,
        momentum_squares=m2.unsqueeze(-1) * unbias**2,
        square=v * large.time.unbias_square,
        grad_slow=grad_slow * unbias[SLOW],
        fast_slow=fast_slow * unbias[FAST] * unbias[SLOW],
    )


def _lerp_in_place(memory: Tensor, target: Tensor, share: Tensor) -> Tensor:
    """Move a memory (...) a ``share`` of the way to ``target``; return it in the target's dtype."""
    if memory.dtype == target.dtype:
        return memory.lerp_(target, share)
    result = memory.to(target.dtype).lerp_(target, share)
    memory.copy_(result)
    return result


def direct_large(large: Large, means: Means, plan: Plan) -> Tensor:
    """Blend the directions at every coordinate by the nets of ``plan``: (n,), before it is scaled
    to a root mean square of 1. Features are computed for one block (F, N) at a time."""
    wide, device = large.wide, large.weight.device
    direction, factors = _matrix_directions(large, means)
    scratch: dict[int, list[Tensor]] = {}  # temporary tensors for blocks of N coordinates
    for block in blocks_of(*large.shape):
        size = block.flat.stop - block.flat.start
        if size not in scratch:
            count, net_dtype = len(COORDINATE_FEATURES), plan.see.dtype
            kinds = (count, wide), (count, net_dtype)
            kinds += (len(plan.see), net_dtype), (len(plan.mix), net_dtype)
            scratch[size] = [torch.empty(h, size, dtype=d, device=device) for h, d in kinds]
        x, clipped, hidden, blend = scratch[size]
        _write_features(x, block, large, means, direction, factors)
        clipped.copy_(x).clamp_(-CLIP, CLIP)
        torch.addmm(plan.shift.unsqueeze(-1), plan.see, clipped, out=hidden).relu_()
        torch.addmm(plan.blend.unsqueeze(-1), plan.mix, hidden, out=blend)
        torch.sum(x[: len(DIRECTIONS)].mul_(blend), 0, out=direction[block.flat])
    return direction


def _matrix_directions(large: Large, means: Means) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute the orthogonal direction (n,) of a matrix, and the factors (R, 1) and (1, C) of its
    factored direction. For a vector: an empty tensor (n,) and no factors."""
    if not large.is_matrix:
        return torch.empty_like(large.weight, dtype=large.wide), ()
    momentum = large.memories.momenta[MAIN].to(large.wide) * large.time.unbias[MAIN]
    orthogonal = newton_schulz(momentum.view(large.shape)).mul_(math.sqrt(max(large.shape)))
    square = large.memories.square.view(large.shape)
    unbias = large.time.unbias_square
    averages = [square.mean(d, keepdim=True, dtype=large.wide) * unbias for d in (1, 0)]
    return orthogonal.reshape(-1), inverse_root_factors(*averages, means.square)


def _write_features(
    x: Tensor,
    block: Block,
    large: Large,
    means: Means,
    orthogonal: Tensor,
    factors: tuple[Tensor, ...],
) -> None:
    """Write the features of a block to ``x`` (F, N), as ``coordinate_features`` defines them, but
    without the clip. The first J rows are the directions."""
    flat, rows, columns = block
    (momenta, square), time = large.memories, large.time
    main, factored = x[ROW["momentum 0.9"]], x[ROW["momentum 0.9 over factored root V"]]
    log_v, last = x[ROW["log V"]], x[ROW["momentum 0.9, orthogonal"]]
    torch.mul(
        sanitise(large.grad[flat].to(x.dtype)), _scale(means.grad_square), out=x[ROW["gradient"]]
    )
    torch.mul(large.weight[flat], _scale(means.weight_square), out=x[ROW["weight"]])
    torch.mul(momenta[:, flat], time.unbias, out=x[MOMENTA])  # not yet divided by their sizes
    torch.mul(square[flat], time.unbias_square, out=log_v)  # V, not yet its logarithm
    root_v = (log_v + (FLOOR * means.square + TINY)).rsqrt_()
    torch.mul(x[MOMENTA], root_v, out=x[ADAM])
    if large.is_matrix:
        by_row, by_column = factors
        shape = rows.stop - rows.start, columns.stop - columns.start
        torch.mul(main.view(shape), by_row[rows], out=factored.view(shape))
        factored.view(shape).mul_(by_column[:, columns])
        last.copy_(orthogonal[flat])
        x[MOMENTA].mul_(_scale(means.momentum_squares))
    else:
        x[MOMENTA].mul_(_scale(means.momentum_squares))
        factored.copy_(x[ROW["momentum 0.9 over root V"]])
        last.copy_(main)
    log_v.add_(TINY).div_(means.square + TINY).log_().div_(4)


def _scale(mean_square: Tensor) -> Tensor:
    return 1 / (mean_square + TINY).sqrt()
