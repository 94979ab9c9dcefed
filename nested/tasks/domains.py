"""Other domains of the same examples: images turned, or features in another order.

Letters: N examples, H and W the sides of an image.
Source: rotated and permuted digits, Lopez-Paz and Ranzato 2017 (arXiv 1706.08840).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

WIDEST = 144.0  # degrees: at 180 a 6 is a 9


def change_domain(x: Tensor, number: int, count: int) -> Tensor:
    """Return examples ``x`` (N, ...) in the domain ``number`` of ``count``. Domain 0 is ``x``.

    Images (N, H, W) or (N, C, H, W) are turned, by up to 144 degrees. Features (N, F) come in
    another order, which is the same in every run. Raises ``ValueError`` for another shape."""
    if x.dim() not in (2, 3, 4):
        raise ValueError(f"domains are made of features or images, but examples are {x.shape[1:]}")
    if number == 0 or not len(x):
        return x
    if x.dim() == 2:
        return x[:, torch.randperm(x.shape[1], generator=Generator().manual_seed(number))]
    angle = math.radians(WIDEST * number / max(1, count - 1))
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], dtype=x.dtype)
    images = x if x.dim() == 4 else x[:, None]
    grid = affine_grid(turn.expand(len(x), 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False).view_as(x)
