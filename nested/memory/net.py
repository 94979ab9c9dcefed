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
from torch.nn.functional import normalize, silu


def hidden_units(z: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden units s(W2 z) (..., C, H) of inputs z (..., C, D) under W2 (..., H, D), and their
    slopes ds (..., C, H)."""
    before = z @ w2.mT
    units = silu(before)
    share = torch.sigmoid(before)
    return units, share + units * (1 - share)  # s = z sig(z), ds = sig + z sig (1 - sig)


def squared(x: Tensor) -> Tensor:
    """The squared lengths (..., 1) of vectors x (..., D)."""
    return x.square().sum(-1, keepdim=True)


def damping(units: Tensor, error: Tensor, back: Tensor) -> Tensor:
    """The share 1 / max(1, c) (..., C, 1) of its rate n that a gradient step may use: it moves M(k)
    by n c times the error, c = |dL/dW|^2 / |dL/dM(k)|^2, and goes past its target once n c > 1.

    Takes hidden units (..., C, H), the squared ``error`` |dL/dM(k)|^2 (..., C, 1) and ``back`` =
    dL/d(W2 k) (..., C, H), where |k| = 1. Of a linear memory that is the normalised LMS rule. With
    outer training, weights grow: undamped, memories with four times their first weights were NaN
    within 16,384 tokens. Raises nothing."""
    curvature = squared(units) + squared(back) / error.clamp(min=1e-12)
    return 1 / curvature.clamp(min=1)


def unit(x: Tensor) -> Tensor:
    """x (..., D), each vector divided by its length; those under 1e-4 stay short, lest a vector of
    zeros have a gradient of 1e12."""
    return normalize(x, dim=-1, eps=1e-4)


def draw_matrix(*shape: int, size: float = 1.0) -> nn.Parameter:
    """A parameter (..., R, C), normal: it makes vectors ``size`` times as long."""
    return nn.Parameter(size * torch.randn(*shape) / math.sqrt(shape[-1]))
