"""The small net that a deep memory is, and its inner gradient written out.

Letters: B samples, C tokens, D width, H hidden units, O outputs.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 89: ``M(z) = z + W1 s(W2 z)``, with s = SiLU.
Autograd could take this gradient (and does, in the tests); written out it is a few matrix products
that the outer gradient then goes through once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def silu_and_slope(before: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden units s(W2 z) (..., C, H), and their slopes, of ``before`` = W2 z (..., C, H)."""
    share = torch.sigmoid(before)
    units = before * share
    return units, share + units * (1 - share)  # s = z sig(z), ds = sig + s (1 - sig)


def squared(x: Tensor) -> Tensor:
    """The squared lengths (..., 1) of vectors x (..., D)."""
    return torch.linalg.vecdot(x, x).unsqueeze(-1)


def damping(units: Tensor, error: Tensor, back: Tensor) -> Tensor:
    """The share 1 / max(1, c) (..., C, 1) of its rate n that a gradient step may use: it moves M(k)
    by n c times the error, c = |dL/dW|^2 / |dL/dM(k)|^2, and goes past its target once n c > 1
    (a dot product has no target: there it bounds the step alone).

    Takes the squared lengths (..., C, 1) of hidden units, of the ``error`` dL/dM(k) and of ``back``
    = dL/d(W2 k), where |k| = 1. Of a linear memory that is the normalised LMS rule. With
    outer training, weights grow: undamped, memories with four times their first weights were NaN
    within 16,384 tokens. Raises nothing."""
    curvature = units + back / clamp_min(error, 1e-12)
    return curvature.clamp(min=1).reciprocal()


def clamp_min(x: Tensor, low: float) -> Tensor:
    """x (...), or ``low`` where it is less: something to divide by, also in half precision."""
    return x.clamp(min=max(low, torch.finfo(x.dtype).tiny))


def widened(x: Tensor) -> Tensor:
    """x (...) in float32 if it is of a half precision, else x itself."""
    return x if x.dtype.itemsize > 2 else x.float()


def unit(x: Tensor) -> Tensor:
    """x (..., D), each vector divided by its length, in float32 at least. Vectors under 1e-4 stay
    short, lest a vector of zeros have a gradient of 1e12. As ``normalize(x, dim=-1, eps=1e-4)``,
    whose way back takes twice as long."""
    wide = widened(x)
    return wide * clamp_min(squared(wide), 1e-8).rsqrt()


def inverse(lower: Tensor) -> Tensor:
    """(I + L)^-1 for L = ``lower`` (..., C, C), zero on its diagonal and above; found in float32 at
    least, for half precisions lack a solver."""
    wide = widened(lower)
    one = torch.eye(lower.shape[-1], dtype=wide.dtype, device=lower.device).expand(lower.shape)
    found = torch.linalg.solve_triangular(wide, one, upper=False, unitriangular=True)
    return found.to(lower.dtype)


def short_query_projection(dim: int) -> nn.Linear:
    """W_q, D x D, of a memory whose queries are brought to length 1: its size does not matter, but
    the shorter it starts, the sooner training turns it. Of Titans with 64 units, 82 % instead of 15
    % of answers to ``ChangingKeys(8, 32, changes=3)`` were right after 750 steps of such texts
    alone (one seed)."""
    query = nn.Linear(dim, dim, bias=False)
    nn.init.normal_(query.weight, std=0.06 / math.sqrt(dim))
    return query


def random_matrix(*shape: int, size: float = 1.0) -> nn.Parameter:
    """A parameter (..., R, C), normal: it makes vectors ``size`` times as long."""
    return nn.Parameter(size * torch.randn(*shape) / math.sqrt(shape[-1]))
