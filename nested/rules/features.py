"""What a learned optimizer blends, and the features by which it chooses.

The idea: do not invent a step, blend known ones. At every weight the rule mixes J directions that
hand-made optimizers take. For every tensor of weights it picks one step size:

    step = - lr * d / rms(d),    d = sum_j blend_j d_j

``directions`` computes the d_j. A net sees the ``coordinate_features`` of a weight and chooses its
blend. A second net sees ``TensorView.features`` of a tensor and chooses its step size.

Letters: n coordinates of a tensor, R x C of a matrix, S decays, F features of a coordinate, J
directions, H features of a tensor. A leading T, for tasks, may come before all of them.
Source: momenta at many time scales, the second moment and its factored form are the features of
Metz et al. 2022 (arXiv 2203.11860); the orthogonal direction is Muon's (Jordan et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nested.optim.newton_schulz import newton_schulz

DECAYS = (0.5, 0.9, 0.99)  # of the S momenta, per inner step
FAST, MAIN, SLOW = range(3)  # places in DECAYS; MAIN is the one that hand-made optimizers use
SQUARE_DECAY = 0.98  # of the second moment V, per inner step
FLOOR = 1e-6  # each V counts as at least this share of its tensor's mean V
TINY = 1e-24  # added to any square, so that its power of -3/2 still is a float32
MAX_GRAD = 1e14  # larger gradients are clipped to this
STALE = 0.1  # if |momentum| < STALE sqrt(V), this tensor no longer receives gradients
CLIP = 4.0  # features of coordinates are clipped to [-CLIP, CLIP]

# These three tuples fix the order in which the nets see the features. Pretrained weights rely on
# it. All code computes the features by name, and ``_in_order`` sorts them.
DIRECTIONS = (  # each has a root mean square of about 1
    "gradient",  # divided by its root mean square in the tensor
    "weight",  # likewise: weight decay
    *(f"momentum {decay} over root V" for decay in DECAYS),  # Adam's
    "momentum 0.9 over factored root V",  # Adafactor's: V is row mean times column mean
    "momentum 0.9, orthogonal",  # Muon's; for a vector the plain momentum
)
COORDINATE_FEATURES = (
    *DIRECTIONS,
    *(f"momentum {decay}" for decay in DECAYS),  # divided by its root mean square in the tensor
    "log V",  # a quarter of log(V / mean V)
)
TENSOR_FEATURES = (  # of order 1; the last three are zero unless the rule knows the total steps
    "log step",  # of the inner step
    "log size",  # of the weights' root mean square
    "is a matrix",
    "log columns",  # inputs of each output
    "log coordinates",
    "gradient and slow momentum",  # cosine of their angle
    "fast and slow momentum",  # cosine of their angle
    "signal to noise",  # log of the momentum's root mean square over that of root V
    "progress",  # inner step / total steps, from -1 to 1
    "log total steps",
    "log remaining share",
)


class Memories(NamedTuple):
    """What a rule keeps of a tensor's gradients: running averages that start at zero."""

    momenta: Tensor  # (S, n)
    square: Tensor  # (n,), the second moment V


class Time(NamedTuple):
    """What all tensors share at one inner step."""

    unbias: Tensor  # (S, 1), corrects the momenta for their start at zero
    unbias_square: Tensor  # (1,), likewise for V
    features: dict[str, Tensor]  # the features of a tensor that depend on time alone, (1,) each


class Means(NamedTuple):
    """Averages over the coordinates of a tensor. Momenta and V are corrected for their start."""

    grad_square: Tensor  # (1,)
    weight_square: Tensor  # (1,)
    momentum_squares: Tensor  # (S, 1)
    square: Tensor  # (1,), of V
    grad_slow: Tensor  # (1,), gradient times slow momentum
    fast_slow: Tensor  # (1,), fast momentum times slow momentum


class TensorView(NamedTuple):
    """All that a rule sees of one tensor of weights at one inner step."""

    weight: Tensor  # (n,)
    grad: Tensor  # (n,)
    momenta: Tensor  # (S, n), corrected for their start
    square: Tensor  # (n,), V, likewise
    matrix_directions: Tensor | None  # (2, n), factored and orthogonal; None for a vector
    means: Means
    features: Tensor  # (H,)
    alive: Tensor  # (1,), 1 while gradients come, 0 before the first and long after the last


def sanitise(grad: Tensor) -> Tensor:
    """Replace NaN and infinity in a gradient (...) by 0, and clip it to ``MAX_GRAD``."""
    return grad.nan_to_num(0.0, 0.0, 0.0).clamp(-MAX_GRAD, MAX_GRAD)


def remember(memories: Memories, grad: Tensor) -> Memories:
    """Update the averages: ``m_s <- b_s m_s + (1 - b_s) g`` and ``V <- b V + (1 - b) g^2``.

    ``grad`` is a vector (N,) of as many numbers as the memories hold, else ``RuntimeError`` is
    raised.
    """
    decays = torch.cat([grad.new_full((1, 1), b) for b in DECAYS])
    momenta = torch.lerp(grad.unsqueeze(-2), memories.momenta, decays)
    return Memories(momenta, torch.lerp(grad * grad, memories.square, SQUARE_DECAY))


def time_features(step: Tensor, total: Tensor | None) -> Time:
    """Compute what depends on time alone, at inner step ``step`` (1,), counted from 1.

    ``total`` (1,) is the number of inner steps. Without it, the features that need it are 0.
    """
    decays = torch.cat([torch.full_like(step, b) for b in DECAYS], dim=-1)  # (S,)
    unbias = 1 / (1 - decays**step).unsqueeze(-1)
    unbias_square = 1 / (1 - SQUARE_DECAY**step)
    features = {"log step": step.log() / 2 - 1}
    if total is None:
        zero = torch.zeros_like(step)
        features |= {"progress": zero, "log total steps": zero, "log remaining share": zero}
    else:
        progress = ((step - 1) / total).clamp(max=1)
        features["progress"] = 2 * progress - 1
        features["log total steps"] = total.log() / 2 - 2
        features["log remaining share"] = (1 - progress + 1 / total).log() / 2 + 1
    return Time(unbias, unbias_square, features)


def tensor_features(weight: Tensor, grad: Tensor, memories: Memories, time: Time) -> TensorView:
    """Compute all that a rule sees of one tensor, a vector (n,) or a matrix (R, C).

    ``grad`` has the shape of ``weight``; ``memories`` already hold it. Raises ``RuntimeError`` for
    shapes that do not fit.
    """
    is_matrix = weight.dim() - time.unbias_square.dim() > 0
    rows = weight.shape[-2] if is_matrix else 1
    w, g = (x.flatten(-2) if is_matrix else x for x in (weight, grad))
    momenta = memories.momenta * time.unbias
    square = memories.square * time.unbias_square
    means = Means(
        grad_square=_mean(g.square()),
        weight_square=_mean(w.square()),
        momentum_squares=_mean(momenta.square()),
        square=_mean(square),
        grad_slow=_mean(g * momenta[..., SLOW, :]),
        fast_slow=_mean(momenta[..., FAST, :] * momenta[..., SLOW, :]),
    )
    matrix_directions = None
    if is_matrix:
        momentum, v = (x.unflatten(-1, (rows, -1)) for x in (momenta[..., MAIN, :], square))
        matrix_directions = _matrix_directions(momentum, v, means.square.unsqueeze(-1))
    columns = w.shape[-1] // max(rows, 1) if is_matrix else 1
    features = features_from_means(means, time, is_matrix, columns, w.shape[-1])
    return TensorView(w, g, momenta, square, matrix_directions, means, features, alive_share(means))


def features_from_means(
    means: Means, time: Time, is_matrix: bool, columns: int, count: int
) -> Tensor:
    """Compute the features (H,) of a tensor with ``count`` coordinates from its ``means``."""
    slow_size = _root(means.momentum_squares[..., SLOW, :])
    fast_size, main_size = (_root(means.momentum_squares[..., s, :]) for s in (FAST, MAIN))
    shape = {
        "is a matrix": float(is_matrix),
        "log columns": math.log(max(columns, 1)) / 2 - 1,
        "log coordinates": math.log(max(count, 1)) / 3 - 2,
    }
    like = time.features["log step"]
    features = {
        **time.features,
        **{name: torch.full_like(like, number) for name, number in shape.items()},
        "log size": (_root(means.weight_square) + FLOOR).log() / 2 + 1,
        "gradient and slow momentum": means.grad_slow / (_root(means.grad_square) * slow_size),
        "fast and slow momentum": means.fast_slow / (fast_size * slow_size),
        "signal to noise": (main_size / _root(means.square) + 1e-3).log() + 1,
    }
    return torch.cat(_in_order(TENSOR_FEATURES, features), dim=-1)


def alive_share(means: Means) -> Tensor:
    """Return 1 (1,) while a tensor receives gradients, and less, down to 0, once they have ceased:
    see ``STALE``."""
    signal = means.momentum_squares[..., MAIN, :] / (means.square + TINY)
    return (signal / STALE**2).clamp(max=1.0)


def directions(view: TensorView, part: slice = slice(None)) -> dict[str, Tensor]:
    """Compute the J directions at a ``part`` of the coordinates: {name: (N,)} for N of them."""
    floor = FLOOR * view.means.square + TINY
    root_v = (view.square[..., part] + floor).rsqrt().unsqueeze(-2)
    adam = (view.momenta[..., part] * root_v).unbind(-2)
    if view.matrix_directions is None:
        size = _root(view.means.momentum_squares[..., MAIN, :])
        factored, orthogonal = adam[MAIN], view.momenta[..., MAIN, part] / size
    else:
        factored, orthogonal = view.matrix_directions[..., part].unbind(-2)
    return {
        "gradient": view.grad[..., part] / _root(view.means.grad_square),
        "weight": view.weight[..., part] / _root(view.means.weight_square),
        **{f"momentum {b} over root V": direction for b, direction in zip(DECAYS, adam)},
        "momentum 0.9 over factored root V": factored,
        "momentum 0.9, orthogonal": orthogonal,
    }


def coordinate_features(view: TensorView, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Compute the features (F, N) and the directions (J, N) at a ``part`` of N coordinates.

    The features are the directions and a few more, all clipped to [-CLIP, CLIP].
    """
    blended = directions(view, part)
    momenta = view.momenta[..., part] / _root(view.means.momentum_squares)
    features = {
        **blended,
        **{f"momentum {b}": momentum for b, momentum in zip(DECAYS, momenta.unbind(-2))},
        "log V": ((view.square[..., part] + TINY) / (view.means.square + TINY)).log() / 4,
    }
    features = torch.stack(_in_order(COORDINATE_FEATURES, features), dim=-2)
    stacked = torch.stack(_in_order(DIRECTIONS, blended), dim=-2)
    return features.clamp(-CLIP, CLIP), stacked


def _in_order(names: Sequence[str], values: Mapping[str, Tensor]) -> list[Tensor]:
    """List the ``values`` (...) in the order of ``names``."""
    return [values[name] for name in names]


def _mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def _root(mean_square: Tensor) -> Tensor:
    return (mean_square + TINY).sqrt()


def _matrix_directions(momentum: Tensor, square: Tensor, mean: Tensor) -> Tensor:
    """Compute Adafactor's and Muon's directions for a matrix (R, C), flattened, (2, n)."""
    by_row, by_column = inverse_root_factors(
        square.mean(-1, keepdim=True), square.mean(-2, keepdim=True), mean
    )
    factored = momentum * by_row * by_column
    orthogonal = newton_schulz(momentum) * math.sqrt(max(momentum.shape[-2:]))
    return torch.stack([x.flatten(-2) for x in (factored, orthogonal)], dim=-2)


def inverse_root_factors(
    row_means: Tensor, column_means: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor]:
    """Factor ``1 / sqrt(V)`` of a matrix: (R, 1) and (1, C) whose product approximates it.

    Takes V's means over each row (R, 1), over each column (1, C) and over all, (1,).
    """
    floor = FLOOR * mean + TINY
    return ((row_means + floor) / (mean + TINY)).rsqrt(), (column_means + floor).rsqrt()
