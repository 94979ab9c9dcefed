"""Orthogonalisation by Newton and Schulz: the nearest matrix with singular values about 1.

Letters: R rows, C columns, R <= C.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 42-44; the quintic polynomial, made for few
steps, is Jordan et al. 2024 (Muon), as in ``torch.optim.Muon``.
"""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c
WIDE = 1.5  # C / R from which steps on the Gram matrix (R, R) are fewer multiplications; they need
#             more than half precision


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return about ``U V^T`` (R, C) for ``matrix = U S V^T`` (R, C), in its dtype, differentiable;
    of many matrices, with a leading dimension, for each: after 5 steps
    the singular values that were not tiny are in [0.68, 1.14]. Scale-free; zero stays zero. Raises
    ``ValueError`` for other dimensions than two or three.

    ``torch.optim.Muon`` does the same in bfloat16, whose rounding errors it raises to singular
    values of their own: on matrices of low rank it is off by a third.
    """
    a, b, c = COEFFICIENTS
    if matrix.dim() not in (2, 3):
        raise ValueError(f"only matrices (R, C) are orthogonal, but got {tuple(matrix.shape)}")
    rows, columns = matrix.shape[-2:]
    is_tall = rows > columns
    x = matrix.mT if is_tall else matrix
    if x.numel():  # singular values of at most 1, of squares that neither overflow nor vanish
        x = x / x.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        # its largest entry is 1, or all are 0
        x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1.0)
    if steps and max(rows, columns) >= WIDE * min(rows, columns) and x.dtype.itemsize >= 4:
        x = _on_the_gram_matrix(x @ x.mT, steps) @ x
    else:
        add_product = torch.addmm if x.dim() == 2 else torch.baddbmm
        for _ in range(steps):
            # x <- (a I + b A + c A^2) x,   A = x x^T
            gram = x @ x.mT
            x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _on_the_gram_matrix(gram: Tensor, steps: int) -> Tensor:
    """The P (R, R) for which x <- P x makes all the steps: each B = a I + b A + c A^2 is a
    polynomial in the first A = x x^T, so that they commute, and the next A is B A B."""
    a, b, c = COEFFICIENTS
    add_product = torch.addmm if gram.dim() == 2 else torch.baddbmm
    p = None
    for step in range(steps):
        factor = add_product(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        p = factor if p is None else factor @ p
        if step < steps - 1:
            gram = factor @ (factor @ gram)
    return p
