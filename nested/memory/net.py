"""The two-layer net inside a deep memory, its inner gradient written out, and small helpers.

Letters: B samples, C tokens, D width, H hidden units.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 89: ``M(z) = z + W1 s(W2 z)``, with s = SiLU.
Autograd could take the inner gradient, and the tests let it. Written out, the gradient is a few
matrix products, and the outer gradient passes through those only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SHORTEST = 0.1  # of |i|^2: what comes with shorter hidden units i is written weakly


def silu_and_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the hidden units s(z) and their slopes s'(z), (..., C, H) each, for z (..., C, H).

    s(z) = z sigmoid(z),  s'(z) = s(z) + (1 - s(z)) sigmoid(z).
    """
    sigmoid = torch.sigmoid(z)
    units = z * sigmoid
    return units, torch.lerp(units, units.new_ones(()), sigmoid)


def squared(x: Tensor) -> Tensor:
    """Compute the squared length (..., 1) of each vector in x (..., D)."""
    return torch.linalg.vecdot(x, x).unsqueeze(-1)


def damping(units: Tensor, error: Tensor, back: Tensor) -> Tensor:
    """Compute the factor (..., C, 1), at most 1, that keeps a gradient step from overshooting.

    Takes squared lengths (..., C, 1): of the hidden units, of ``error`` = dL/dM(k) and of ``back``
    = dL/d(W2 k), for a key k of length 1. A step at rate n moves M(k) by n c times the error, with

        c = |dL/dW|^2 / |dL/dM(k)|^2 = |units|^2 + |back|^2 / |error|^2.

    It passes its target once n c > 1, so the factor is 1 / max(1, c). For a linear memory this is
    the normalised LMS rule. A dot product has no target; there the factor only bounds the step.
    Weights grow during outer training. Without damping, memories with four times their first
    weights were NaN within 16,384 tokens.
    """
    curvature = units + back / clamp_min(error, 1e-12)
    return curvature.clamp(min=1).reciprocal()


def clamp_min(x: Tensor, low: float) -> Tensor:
    """Return x (...), raised to ``low`` where it is less. The result can divide in any precision:
    it is at least the smallest normal number of its dtype."""
    return x.clamp(min=max(low, torch.finfo(x.dtype).tiny))


def widened(x: Tensor) -> Tensor:
    """Return x (...) in float32 if it has half precision, else x itself."""
    return x if x.dtype.itemsize > 2 else x.float()


def unit(x: Tensor) -> Tensor:
    """Divide each vector of x (..., D) by its length, in float32 at least.

    Vectors shorter than 1e-4 stay shorter than 1, so that a zero vector has a bounded gradient.
    Same as ``normalize(x, dim=-1, eps=1e-4)``, whose backward pass takes twice as long.
    """
    wide = widened(x)
    return wide * clamp_min(squared(wide), 1e-8).rsqrt()


def solve_lower(lower: Tensor, right: Tensor) -> Tensor:
    """Solve (I + L) X = ``right`` (..., C, E), where L is the part of ``lower`` (..., C, C) below
    its diagonal.

    Works in float32 at least, because half precisions lack a triangular solver.
    """
    wide = widened(lower), widened(right)
    solution = torch.linalg.solve_triangular(*wide, upper=False, unitriangular=True)
    return solution.to(right.dtype)


def plus_product(old: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Compute old + left @ right (B, R, C) in one pass.

    The sum has the dtype of ``old``, also under autocast: ``baddbmm`` would round it there, and
    rounding errors of a memory add up.
    """
    if torch.is_autocast_enabled(old.device.type):
        return old + left @ right
    return torch.baddbmm(old, left, right)


def zero_projection(dim: int, size: int) -> nn.Linear:
    """Make a map from tokens (..., dim) to gates (..., size) that starts at zero: at first gates
    ignore their token."""
    projection = nn.Linear(dim, size, bias=False)
    nn.init.zeros_(projection.weight)
    return projection


def random_matrix(*shape: int, size: float = 1.0) -> nn.Parameter:
    """Draw a parameter (..., R, C) from a normal distribution. It maps a vector to one about
    ``size`` times as long."""
    return nn.Parameter(size * torch.randn(*shape) / math.sqrt(shape[-1]))
