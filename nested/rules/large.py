"""The move of a ``CoordinatewiseRule`` on one large tensor: in place, block by block, no graph.

It makes the same numbers as ``CoordinatewiseRule.forward``, which is the definition. Beside the
weights it needs one tensor of their size, and what ``newton_schulz`` needs.
Letters: n coordinates, R x C of a matrix, S time scales, F features, J directions, U hidden units,
N coordinates of a block.
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
    COORDINATE_FEATURES,
    DECAYS,
    DIRECTIONS,
    FLOOR,
    MIDDLE,
    REACH,
    SQUARE_DECAY,
    TINY,
    Memories,
    Moment,
    Summary,
    factors_of,
    within_reach,
)

BLOCK = 2**14  # coordinates: what is made on the way stays in a cache
ADAM = slice(2, 2 + len(DECAYS))  # among the directions
UNITS = slice(len(DIRECTIONS), len(DIRECTIONS) + len(DECAYS))  # among the features


class Plan(NamedTuple):
    """What a rule decided for a tensor, before it sees single coordinates."""

    plain: Tensor  # (J,): the mix of directions, without what the coordinates add
    shift: Tensor  # (U,): of the hidden units
    see: Tensor  # (U, F)
    mix: Tensor  # (J, U)


class Large(NamedTuple):
    """One large tensor of weights, as a vector, and what a rule remembers of it."""

    weight: Tensor  # (n,)
    grad: Tensor  # (n,)
    memories: Memories
    moment: Moment
    shape: tuple[int, int]  # (R, C) of a matrix, or (1, n)
    is_matrix: bool

    @property
    def wide(self) -> torch.dtype:
        """The dtype to compute in: half precision is too coarse."""
        return torch.promote_types(self.weight.dtype, torch.float32)


class Block(NamedTuple):
    """A range of the n coordinates: whole rows of a matrix, or part of one row."""

    flat: slice
    rows: slice
    columns: slice


def blocks_of(rows: int, columns: int) -> Iterator[Block]:
    """Cut a matrix (R, C) into blocks of at most ``BLOCK`` coordinates in a row."""
    height, width = max(1, BLOCK // columns), min(columns, BLOCK)
    for top in range(0, rows, height):
        bottom = min(top + height, rows)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            flat = slice(top * columns + left, (bottom - 1) * columns + right)
            yield Block(flat, slice(top, bottom), slice(left, right))


def remember_large(large: Large) -> Summary:
    """Take the gradient of a tensor (R, C) into its memories, in place, and sum up what there is to
    see of the whole tensor."""
    (momenta, square), wide = large.memories, large.wide
    decays = torch.tensor([*DECAYS, SQUARE_DECAY], dtype=wide, device=square.device)
    shares, square_share = (1 - decays[:-1]).unsqueeze(-1), 1 - decays[-1]  # (S, 1) and ()
    sums = []
    for flat, _, _ in blocks_of(*large.shape):
        g, w = within_reach(large.grad[flat].to(wide)), large.weight[flat].to(wide)
        # m_s <- b_s m_s + (1 - b_s) g,   V <- b V + (1 - b) g^2
        m = _pulled(momenta[:, flat], g.expand(len(DECAYS), -1), shares)
        v = _pulled(square[flat], g * g, square_share)
        powers = [x.dot(x) for x in (g, w, *m)]
        sums.append(torch.stack([*powers, v.sum(), g.dot(m[-1]), m[0].dot(m[-1])]))
    means = torch.stack(sums).sum(0) / len(large.weight)
    powers, mean_square, *products = means.split([2 + len(DECAYS), 1, 1, 1])
    unbias, unbias_square = large.moment.unbias, large.moment.unbias_square
    powers = torch.cat([powers[:2].unsqueeze(-1), powers[2:].unsqueeze(-1) * unbias**2])
    products = products[0] * unbias[-1], products[1] * unbias[0] * unbias[-1]
    return Summary(powers, mean_square * unbias_square, products)


def _pulled(memory: Tensor, towards: Tensor, share: Tensor) -> Tensor:
    """A memory (...) after it went a share of the way towards something, in place."""
    if memory.dtype == towards.dtype:
        return memory.lerp_(towards, share)
    moved = memory.to(towards.dtype).lerp_(towards, share)
    memory.copy_(moved)
    return moved


def direct_large(large: Large, summary: Summary, plan: Plan) -> Tensor:
    """Compute the direction (n,), not yet of root mean square 1, by the nets of ``plan``, from
    blocks of features (F, N)."""
    wide, device = large.wide, large.weight.device
    direction, factors = _structured(large, summary)
    scales = 1 / (summary.powers + TINY).sqrt()  # (2 + S, 1)
    floor, mean = FLOOR * summary.mean_square + TINY, summary.mean_square + TINY
    scratch: dict[int, list[Tensor]] = {}  # space for blocks of a size
    for block in blocks_of(*large.shape):
        size = block.flat.stop - block.flat.start
        if size not in scratch:
            count, own = len(COORDINATE_FEATURES), plan.see.dtype
            heights = (count, wide), (count, own), (len(plan.see), own), (len(plan.mix), own)
            scratch[size] = [torch.empty(h, size, dtype=d, device=device) for h, d in heights]
        x, seen, hidden, mix = scratch[size]
        _see(x, block, large, (scales, floor, mean), direction, factors)
        seen.copy_(x).clamp_(-REACH, REACH)
        torch.addmm(plan.shift.unsqueeze(-1), plan.see, seen, out=hidden).relu_()
        torch.addmm(plan.plain.unsqueeze(-1), plan.mix, hidden, out=mix)
        torch.sum(x[: len(DIRECTIONS)].mul_(mix), 0, out=direction[block.flat])
    return direction


def _structured(large: Large, summary: Summary) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The orthogonal direction of a matrix, (n,), and the factors of its factored one, (R, 1) and
    (1, C); of a vector, space alone, and nothing."""
    if not large.is_matrix:
        return torch.empty_like(large.weight, dtype=large.wide), ()
    middle = large.memories.momenta[MIDDLE].to(large.wide) * large.moment.unbias[MIDDLE]
    orthogonal = newton_schulz(middle.view(large.shape)).mul_(math.sqrt(max(large.shape)))
    square = large.memories.square.view(large.shape)
    unbias = large.moment.unbias_square
    means = [square.mean(d, keepdim=True, dtype=large.wide) * unbias for d in (1, 0)]
    return orthogonal.reshape(-1), factors_of(*means, summary.mean_square)


def _see(
    x: Tensor,
    block: Block,
    large: Large,
    sizes: tuple[Tensor, Tensor, Tensor],
    direction: Tensor,
    factors: tuple[Tensor, ...],
) -> None:
    """Write the features of N coordinates to ``x`` (F, N), the first J of which are directions, as
    ``Seen.at`` computes them."""
    (flat, rows, columns), (scales, floor, mean) = block, sizes
    (momenta, square), moment = large.memories, large.moment
    torch.mul(within_reach(large.grad[flat].to(x.dtype)), scales[0], out=x[0])
    torch.mul(large.weight[flat], scales[1], out=x[1])
    torch.mul(momenta[:, flat], moment.unbias, out=x[UNITS])  # momenta, for now
    torch.mul(square[flat], moment.unbias_square, out=x[-1])  # V, for now
    torch.mul(x[UNITS], (x[-1] + floor).rsqrt_(), out=x[ADAM])
    if large.is_matrix:
        by_row, by_column = factors
        shape = rows.stop - rows.start, columns.stop - columns.start
        middle, factored = (x[i].view(shape) for i in (UNITS.start + MIDDLE, ADAM.stop))
        torch.mul(middle, by_row[rows], out=factored).mul_(by_column[:, columns])
        x[ADAM.stop + 1] = direction[flat]
        x[UNITS].mul_(scales[2:])
    else:
        x[UNITS].mul_(scales[2:])
        x[ADAM.stop], x[ADAM.stop + 1] = x[2 + MIDDLE], x[UNITS.start + MIDDLE]
    x[-1].add_(TINY).div_(mean).log_().div_(4)
