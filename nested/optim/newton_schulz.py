"""Newton-Schulz: make all singular values of a matrix about 1.

Letters: R rows, C columns, R <= C.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 42-44; the quintic polynomial, made for few
steps, is Jordan et al. 2024 (Muon), as in ``torch.optim.Muon``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.optim.sharded import cut_as, is_sharded, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c
WIDE = 1.5  # from this C / R on, steps on the Gram matrix (R, R) need fewer multiplications
LEAST = {  # a matrix of smaller numbers counts as zero, so that gradients stay finite
    torch.float64: 4096 * torch.finfo(torch.float64).tiny,
    torch.float32: 4096 * torch.finfo(torch.float32).tiny,
    torch.bfloat16: 4096 * torch.finfo(torch.bfloat16).tiny,
    torch.float16: 0.0,  # its range is too small for that
}
LARGEST_HALF = torch.finfo(torch.float16).max


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """Replace the singular values of a matrix by about 1, and keep its singular vectors.

    Returns approximately ``U V^T`` (R, C) for ``matrix = U S V^T`` (R, C), in its dtype. A stack
    (N, R, C) is treated matrix by matrix. After 5 steps, singular values that were not tiny lie in
    [0.68, 1.14]. The scale of the matrix does not matter, and zero stays zero.

    The function is differentiable. At the zero matrix, where it has no derivative, the gradient is
    zero. A matrix counts as zero if all entries are below ``4096 tiny`` of the dtype. In float16
    none does, and gradients are clipped to its largest number. Sharded matrices (``DTensor``) are
    gathered, and the result is sharded again. Raises ``ValueError`` for other than two or three
    dimensions.

    ``torch.optim.Muon`` computes the same in bfloat16. Rounding then creates wrong singular values
    in matrices of low rank.
    """
    a, b, c = COEFFICIENTS
    if matrix.dim() not in (2, 3):
        raise ValueError(f"newton_schulz takes matrices (R, C), but got {tuple(matrix.shape)}")
    if is_sharded(matrix):
        return cut_as(newton_schulz(whole(matrix), steps), matrix)
    rows, columns = matrix.shape[-2:]
    is_tall = rows > columns
    x = matrix.mT if is_tall else matrix
    if x.numel():  # scale to a Frobenius norm of 1, without overflow or underflow of squares
        x = _with_largest_entry_one(x)
        x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=0.5)
    is_wide = max(rows, columns) >= WIDE * min(rows, columns)
    if steps and is_wide and x.dtype.itemsize >= 4:  # half precision is too coarse for this way
        x = _on_the_gram_matrix(x @ x.mT, steps) @ x
    else:
        add_product = torch.addmm if x.dim() == 2 else torch.baddbmm
        for _ in range(steps):
            # x <- (a I + b A + c A^2) x,   A = x x^T
            gram = x @ x.mT
            x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _on_the_gram_matrix(gram: Tensor, steps: int) -> Tensor:
    """Compute the P (R, R) for which ``P x`` is the result of all steps.

    Each step multiplies x by ``B = a I + b A + c A^2``, where A is ``x x^T``. All B are polynomials
    in the first A, so they commute, and the next A is ``B A B``.
    """
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
    """Divide each matrix (..., R, C) by its largest entry.

    The entry gets no gradient, as the result of Newton-Schulz does not depend on it. A zero matrix
    is divided by infinity, which gives it the gradient zero.
    """
    if x.dtype == torch.float16 and x.requires_grad:
        x = x.clone()
        x.register_hook(lambda grad: grad.clamp(-LARGEST_HALF, LARGEST_HALF))
    largest = x.detach().abs().amax((-2, -1), keepdim=True)
    return x / torch.threshold(largest, LEAST.get(x.dtype, 0.0), torch.inf)
