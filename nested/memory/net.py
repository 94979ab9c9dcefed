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


def unit(x: Tensor) -> Tensor:
    """x (..., D), each vector divided by its length; those under 1e-4 stay short, lest a vector of
    zeros have a gradient of 1e12."""
    return normalize(x, dim=-1, eps=1e-4)


def draw_matrix(*shape: int, size: float = 1.0) -> nn.Parameter:
    """A parameter (..., R, C), normal: it makes vectors ``size`` times as long."""
    return nn.Parameter(size * torch.randn(*shape) / math.sqrt(shape[-1]))
