"""What a rule sees of one tensor of weights, and the directions it may mix.

Letters: n coordinates of a tensor, R x C of a matrix, S time scales, F features of a coordinate, J
directions, H features of a tensor; a leading T, of tasks, may come before all of them.
Source: momenta at many time scales, the second moment and its factored form are the features of
Metz et al. 2022 (arXiv 2203.11860); the orthogonal direction is Muon's (Jordan et al. 2024).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nested.optim.newton_schulz import newton_schulz

DECAYS = (0.5, 0.9, 0.99)  # of the momenta, S of them, per inner step
MIDDLE = DECAYS.index(0.9)
SQUARE_DECAY = 0.98  # of the second moment V, per inner step
FLOOR = 1e-6  # of a tensor's mean V: coordinates that get less count as if they got that
TINY = 1e-24  # beside any square: its power of -3/2, met on the way back, is still a float32
HUGE = 1e14  # the largest gradient that counts as it is
FAINT = 0.1  # of root V: a momentum 0.9 that is less is what gradients left that have ceased
REACH = 4.0  # features of coordinates are cut off there

DIRECTIONS = (  # J, each of root mean square about 1; all but "weight" are 0 without gradients
    "gradient",  # over its root mean square in the tensor
    "weight",  # over its root mean square: weight decay
    *(f"momentum {decay} over root V" for decay in DECAYS),  # Adam's
    "momentum 0.9 over factored root V",  # rows' mean x columns' mean: Adafactor's
    "momentum 0.9, orthogonal",  # Muon's; of a vector, over its root mean square
)
COORDINATE_FEATURES = (  # F
    *DIRECTIONS,
    *(f"momentum {decay}" for decay in DECAYS),  # over their root mean squares in the tensor
    "log V",  # a quarter of its logarithm, against the tensor's mean
)
TENSOR_FEATURES = (  # H, each of order 1; the last three only for rules told the total steps
    "log step",  # log(1 + inner step)
    "log size",  # log of the weights' root mean square
    "is a matrix",
    "log columns",  # inputs of each output
    "log coordinates",
    "gradient and slow momentum",  # cosine
    "fast and slow momentum",  # cosine
    "signal to noise",  # log of the root mean square of momentum 0.9 over that of root V
    "progress",  # inner step / total steps, from -1 to 1
    "log total steps",
    "log remaining share",
)


class Seen(NamedTuple):
    """What there is to see of a tensor; ``at`` shows it coordinate by coordinate."""

    weight: Tensor  # (n,)
    grad: Tensor  # (n,)
    momenta: Tensor  # (S, n), as averages
    square: Tensor  # (n,), likewise
    structured: Tensor | None  # (2, n), of a matrix: the last two directions
    sizes: Tensor  # (2 + S, 1): root mean squares of gradient, weight and momenta
    mean_square: Tensor  # (1,)
    tensor: Tensor  # (H,)
    pulse: Tensor  # (1,): 1 while gradients come, 0 some twenty steps after the last, or before any

    def at(self, some: slice) -> tuple[Tensor, Tensor]:
        """The features (F, N) and the directions (J, N) of ``some`` N of the coordinates. Raises
        nothing."""
        momenta, square = self.momenta[..., some], self.square[..., some]
        own = [x[..., some].unsqueeze(-2) for x in (self.grad, self.weight)]
        units = torch.cat([*own, momenta], dim=-2) / self.sizes  # (2 + S, n)
        floor = FLOOR * self.mean_square + TINY
        adam = momenta * (square + floor).rsqrt().unsqueeze(-2)
        if self.structured is None:
            last = [adam[..., MIDDLE : MIDDLE + 1, :], units[..., 2 + MIDDLE : 3 + MIDDLE, :]]
        else:
            last = [self.structured[..., some]]
        directions = torch.cat([units[..., :2, :], adam, *last], dim=-2)
        log_square = ((square + TINY) / (self.mean_square + TINY)).log().unsqueeze(-2) / 4
        coordinates = torch.cat([directions, units[..., 2:, :], log_square], dim=-2)
        return coordinates.clamp(-REACH, REACH), directions


class Memories(NamedTuple):
    """What is kept of a tensor's gradients: averages that start at zero."""

    momenta: Tensor  # (S, n)
    square: Tensor  # (n,)


def within_reach(grad: Tensor) -> Tensor:
    """The gradient (...), with what is not finite read as 0, and nothing beyond ``HUGE``. Raises
    nothing."""
    return grad.nan_to_num(0.0, 0.0, 0.0).clamp(-HUGE, HUGE)


def remember(memories: Memories, grad: Tensor) -> Memories:
    """Take in a gradient, (N,) for N = n: ``m_s <- b_s m_s + (1 - b_s) g``, ``V <- b V + (1 - b)
    g^2``. Raises ``RuntimeError`` for another n."""
    decays = torch.cat([grad.new_full((1, 1), b) for b in DECAYS])
    momenta = torch.lerp(grad.unsqueeze(-2), memories.momenta, decays)
    return Memories(momenta, torch.lerp(grad * grad, memories.square, SQUARE_DECAY))


class Moment(NamedTuple):
    """What a step is to all tensors alike."""

    unbias: Tensor  # (S, 1): momenta start at zero, and averages of them are that much larger
    unbias_square: Tensor  # (1,)
    clock: list[Tensor]  # "log step", and the three that need the total, each (1,)


def moment_of(step: Tensor, total: Tensor | None) -> Moment:
    """Inner step number ``step`` from 1, (1,), of ``total``, (1,), if that is told; else what needs
    it is 0. Raises nothing."""
    decays = torch.cat([torch.full_like(step, b) for b in DECAYS], dim=-1)  # (S,)
    unbias = 1 / (1 - decays**step).unsqueeze(-1), 1 / (1 - SQUARE_DECAY**step)
    clock = [step.log() / 2 - 1]
    if total is None:
        return Moment(*unbias, [*clock, *[torch.zeros_like(step)] * 3])
    progress = ((step - 1) / total).clamp(max=1)
    remaining = (1 - progress + 1 / total).log()
    clock += [2 * progress - 1, total.log() / 2 - 2, remaining / 2 + 1]
    return Moment(*unbias, clock)


def look_at(weight: Tensor, grad: Tensor, memories: Memories, moment: Moment) -> Seen:
    """What there is to see of ``weight`` (n,), or a matrix (R, C), with its ``grad``, of the same
    shape, after ``memories`` took it in at that ``moment``. Raises ``RuntimeError`` for shapes that
    do not fit."""
    is_matrix = weight.dim() - moment.clock[0].dim() > 0
    rows = weight.shape[-2] if is_matrix else 1
    w, g = (x.flatten(-2) if is_matrix else x for x in (weight, grad))
    momenta = memories.momenta * moment.unbias
    square = memories.square * moment.unbias_square
    mean_square = square.mean(-1, keepdim=True)
    structured = None
    if is_matrix:
        matrices = (x.unflatten(-1, (rows, -1)) for x in (momenta[..., MIDDLE, :], square))
        structured = _structured(*matrices, mean_square.unsqueeze(-1))
    squares = [x.square().mean(-1, keepdim=True) for x in (g.unsqueeze(-2), w.unsqueeze(-2))]
    powers = torch.cat([*squares, momenta.square().mean(-1, keepdim=True)], dim=-2)
    slow = momenta[..., -1, :]
    products = [(x * slow).mean(-1, keepdim=True) for x in (g, momenta[..., 0, :])]
    summary = Summary(powers, mean_square, tuple(products))
    columns = w.shape[-1] // max(rows, 1) if is_matrix else 1
    sizes, tensor, pulse = features_of_tensor(summary, moment, is_matrix, columns, w.shape[-1])
    return Seen(w, g, momenta, square, structured, sizes, mean_square, tensor, pulse)


class Summary(NamedTuple):
    """Means over the coordinates of a tensor."""

    powers: Tensor  # (2 + S, 1): squares of the gradient, the weight and each momentum
    mean_square: Tensor  # (1,): of V
    products: tuple[Tensor, Tensor]  # (1,) each: gradient, and fast momentum, times the slow one


def features_of_tensor(
    summary: Summary, moment: Moment, is_matrix: bool, columns: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ``sizes`` (2 + S, 1), the features (H,) and the ``pulse`` (1,) of a tensor with
    this ``summary``: see ``Seen``."""
    (first, *rest), (powers, mean_square, products) = moment.clock, summary
    sizes = (powers + TINY).sqrt()  # (2 + S, 1)
    cosines = [
        product / (sizes[..., i, :] * sizes[..., -1, :]) for i, product in zip((0, 2), products)
    ]
    own = [
        (sizes[..., 1, :] + FLOOR).log() / 2 + 1,
        *(torch.full_like(first, x) for x in _shape_features(is_matrix, columns, count)),
        *cosines,
        (sizes[..., 2 + MIDDLE, :] / (mean_square + TINY).sqrt() + 1e-3).log() + 1,
    ]
    signal = powers[..., 2 + MIDDLE, :] / (mean_square + TINY)
    return sizes, torch.cat([first, *own, *rest], dim=-1), (signal / FAINT**2).clamp(max=1.0)


def _shape_features(is_matrix: bool, columns: int, count: int) -> tuple[float, float, float]:
    return float(is_matrix), math.log(max(columns, 1)) / 2 - 1, math.log(max(count, 1)) / 3 - 2


def _structured(momentum: Tensor, square: Tensor, mean: Tensor) -> Tensor:
    """Two directions of a matrix (R, C), flattened, (2, n): the momentum over the root of V's row
    means times its column means over its mean; and the momentum made orthogonal."""
    by_row, by_column = factors_of(
        square.mean(-1, keepdim=True), square.mean(-2, keepdim=True), mean
    )
    orthogonal = newton_schulz(momentum) * math.sqrt(max(momentum.shape[-2:]))
    both = momentum * by_row * by_column, orthogonal
    return torch.stack([x.flatten(-2) for x in both], dim=-2)


def factors_of(row_means: Tensor, column_means: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return (R, 1) and (1, C) whose product is one over the factored root of V, from V's means
    over rows (R, 1), columns (1, C) and all, (1,)."""
    floor = FLOOR * mean + TINY
    return ((row_means + floor) / (mean + TINY)).rsqrt(), (column_means + floor).rsqrt()
