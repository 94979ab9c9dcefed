"""Heads: H memories of width E = D / H side by side. Each reads its E numbers of every token.

Letters: B samples, T tokens, D width, H heads, E = D / H, K numbers of a key, N = B H.
Source: Vaswani et al. 2017 (arXiv 1706.03762); for memories, as in Yang et al. 2024 (arXiv
2406.06484).
"""

from __future__ import annotations

from torch import Tensor

from nested.support.checks import check_counts


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split tokens x (B, T, D) among the heads: (N, T, E), the heads of a sample in a row."""
    if heads == 1:
        return x
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)


def join_heads(x: Tensor, heads: int) -> Tensor:
    """Undo ``split_heads``: from (N, T, E) to (B, T, D)."""
    if heads == 1:
        return x
    return x.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def split_rows(matrix: Tensor, heads: int) -> Tensor:
    """Split matrices (B, H E, K), the heads one above the other, into (N, E, K)."""
    return matrix if heads == 1 else matrix.unflatten(1, (heads, -1)).flatten(0, 1)


def check_heads(dim: int, heads: int) -> None:
    """Raise ``ValueError`` unless ``dim`` is a multiple of ``heads``."""
    check_counts(heads=heads)
    if dim % heads:
        raise ValueError(f"dim is a multiple of heads, which is {heads}, but got {dim}")
