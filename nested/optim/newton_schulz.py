"""Orthogonalisation by Newton and Schulz: the nearest matrix with singular values about 1.

Letters: R rows, C columns.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 42-44; the quintic polynomial, made for few
steps, is Jordan et al. 2024 (Muon), as in ``torch.optim.Muon``.
"""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LEAST_NORM = 1e-7


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return about ``U V^T`` (R, C) for ``matrix = U S V^T`` (R, C), in its dtype: after 5 steps
    the singular values that were not tiny are in [0.68, 1.14]. Scale-free: only a norm under 1e-7
    shrinks the result, so that zero stays zero. Raises ``RuntimeError`` for other dimensions than
    two. (``torch.optim.Muon`` does the same in bfloat16.)"""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=LEAST_NORM)  # singular values of at most 1
    for _ in range(steps):
        # x <- a x + (b A + c A^2) x,   A = x x^T
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
