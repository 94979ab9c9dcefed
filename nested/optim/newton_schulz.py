"""Orthogonalisation by Newton and Schulz: the nearest matrix with singular values about 1.

Letters: R rows, C columns, R <= C.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 42-44; the quintic polynomial, made for few
steps, is Jordan et al. 2024 (Muon), as in ``torch.optim.Muon``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.optim.sharded import cut_as, is_sharded, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c
WIDE = 1.5  # C / R from which steps on the Gram matrix (R, R) are fewer multiplications; they need
#             more than half precision
LEAST = {  # a matrix of smaller numbers counts as zero, so that gradients stay finite
    torch.float64: 4096 * torch.finfo(torch.float64).tiny,
    torch.float32: 4096 * torch.finfo(torch.float32).tiny,
    torch.bfloat16: 4096 * torch.finfo(torch.bfloat16).tiny,
    torch.float16: 0.0,  # its range is too small for that
}
LARGEST_HALF = torch.finfo(torch.float16).max


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """Replace the singular values of a matrix by about 1, and keep its singular vectors.

    Returns about ``U V^T`` (R, C) for ``matrix = U S V^T`` (R, C), in its dtype; a stack (N, R, C)
    is taken matrix by matrix. After 5 steps the singular values that were not tiny lie in
    [0.68, 1.14]. The scale of the matrix does not matter, and zero stays zero. The function is
    differentiable. At the zero matrix, where it has no derivative, its gradient is zero. Matrices
    whose entries are all below ``4096 tiny`` of the dtype count as zero; in float16 none does, and
    gradients stop at its largest number. Raises ``ValueError`` for other dimensions than two or
    three. A matrix that is cut over processes (``DTensor``) is gathered, and its result cut again.

    ``torch.optim.Muon`` computes the same in bfloat16. Rounding gives its result singular values of
    their own: on matrices of low rank it is wrong by a third.
    """
    a, b, c = COEFFICIENTS
    if matrix.dim() not in (2, 3):
        raise ValueError(f"only matrices (R, C) are orthogonal, but got {tuple(matrix.shape)}")
    if is_sharded(matrix):
        return cut_as(newton_schulz(whole(matrix), steps), matrix)
    rows, columns = matrix.shape[-2:]
    is_tall = rows > columns
    x = matrix.mT if is_tall else matrix
    if x.numel():  # to a Frobenius norm of 1, through squares that neither overflow nor vanish
        x = _with_largest_entry_one(x)
        x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=0.5)
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


def _with_largest_entry_one(x: Tensor) -> Tensor:
    """Divide each matrix (..., R, C) by its largest entry, which gets no gradient: the result of
    Newton and Schulz does not depend on it. Zero, divided by infinity, has the gradient zero."""
    if x.dtype == torch.float16 and x.requires_grad:
        x = x.clone()
        x.register_hook(lambda grad: grad.clamp(-LARGEST_HALF, LARGEST_HALF))
    largest = x.detach().abs().amax((-2, -1), keepdim=True)
    return x / torch.threshold(largest, LEAST.get(x.dtype, 0.0), torch.inf)
