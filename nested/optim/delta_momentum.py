"""Delta momentum: a momentum whose decay is a matrix, fitted to the gradient that comes.

State: one matrix for each weight.  It sees: gradients.  Clock: every batch.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 48-49, with P = 1 and the gradient as the key.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nested.optim.base import INFINITY, MemoryOptimizer, as_rows, zeros_for


class DeltaMomentum(MemoryOptimizer):
    """Momentum that first forgets, by a step on ``1/2 |m g^T|^2``, what it holds in the directions
    of the gradient that comes:

        m <- a m - m g^T g - n g        (eq. 49)
        W <- W + m                      (eq. 48)

    ``lr`` (n) is a step size as in SGD, ``momentum`` (a) in [0, 1) the share kept. Weights (R, ...)
    are matrices of R rows; scalars and vectors are one row. As printed, the memory is stable while
    the largest singular value of g stays under ``sqrt(1 + a)``: gradients of larger norm make it
    grow. ``unit_key=True`` divides the key, not the value ``n g``, by its Frobenius norm, which
    keeps it stable for any gradient: ``m <- a m - m k^T k - n g``, ``k = g / |g|``.

    Memory: as much as the parameters. Raises ``ValueError`` for settings out of range.
    """

    ranges = {"lr": (0.0, INFINITY), "momentum": (0.0, 1.0)}

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.9, *, unit_key: bool = False
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "unit_key": unit_key})

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = zeros_for(p)
            buffer = self.state[p]["momentum"]
            delta_step(as_rows(buffer), as_rows(p.grad), lr, momentum, group["unit_key"])
            p.add_(buffer)


def delta_step(memory: Tensor, grad: Tensor, lr: float, momentum: float, unit_key: bool) -> None:
    """Update ``memory`` (R, C) in place by ``grad`` (R, C): ``m <- a m - m k^T k - n g``.

    The products go through the smaller of (R, R) and (C, C), and n g rides along in the same
    multiplication. Raises ``RuntimeError`` for shapes that differ. Source: eq. 49.
    """
    rows, columns = grad.shape
    scale = 1.0
    if unit_key:
        scale = 1 / grad.square().sum().clamp(min=torch.finfo(grad.dtype).tiny)
    if rows <= columns:
        # m <- a m - (m k^T + n I) g
        left = (memory @ grad.T).mul_(scale)
        left.diagonal().add_(lr)
        memory.addmm_(left, grad, beta=momentum, alpha=-1)
    else:
        # m <- m (a I - k^T k) - n g
        right = (grad.T @ grad).mul_(-scale)
        right.diagonal().add_(momentum)
        memory.copy_(torch.addmm(grad, memory, right, beta=-lr))
