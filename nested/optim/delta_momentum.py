"""Delta momentum: a momentum whose decay is a matrix, which the current gradient determines.

State: one matrix for each weight.  It sees: gradients.  Clock: every batch.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 48-49, with P = 1 and the gradient as the key.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nested.optim.base import INFINITY, MemoryOptimizer, as_rows, zeros_for
from nested.optim.sharded import cut_as, is_sharded, whole


class DeltaMomentum(MemoryOptimizer):
    """Momentum that first forgets its content in the directions of the new gradient, by a step on
    ``1/2 |m g^T|^2``:

        m <- a m - m g^T g - n g        (eq. 49)
        W <- W + m                      (eq. 48)

    ``lr`` (n) is a step size as in SGD, and ``momentum`` (a) in [0, 1) the share that is kept.
    Weights (R, ...) are matrices of R rows; scalars and vectors are one row.

    As printed, the memory is stable only while the largest singular value of g is below ``sqrt(1 +
    a)``; larger gradients make it grow. Data sorted by class gives such gradients: there it
    diverges. ``unit_key=True`` is stable for any gradient. It divides the key, not the value
    ``n g``, by its Frobenius norm: ``m <- a m - m k^T k - n g``, ``k = g / |g|``.

    Memory: as much as the parameters. Sharded weights are gathered one by one. Raises
    ``ValueError`` for settings out of range.
    """

    ranges = {"lr": (0.0, INFINITY), "momentum": (0.0, 1.0)}
    switches, shaped = ("unit_key",), ("momentum",)

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.9, *, unit_key: bool = False
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "unit_key": unit_key})

    def begin(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = zeros_for(p)

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            stored, grad = self.state[p]["momentum"], as_rows(whole(p.grad))
            buffer = whole(stored)
            key = _unit(grad) if group["unit_key"] else grad
            delta_step(as_rows(buffer), grad, key, group["lr"], group["momentum"])
            if is_sharded(stored):
                stored.copy_(cut_as(buffer, stored))
            p.add_(stored)


def delta_step(memory: Tensor, grad: Tensor, key: Tensor, lr: float, momentum: float) -> None:
    """Update ``memory`` (R, C) in place: ``m <- a m - m k^T k - n g`` for a gradient g and a key k,
    (R, C) both.

    The products go through the smaller of (R, R) and (C, C). Raises ``RuntimeError`` for shapes
    that differ. Source: eq. 49.
    """
    rows, columns = grad.shape
    if rows <= columns:
        memory.addmm_(memory @ key.T, key, beta=momentum, alpha=-1)
    else:
        memory.copy_(torch.addmm(memory, memory, key.T @ key, beta=momentum, alpha=-1))
    memory.add_(grad, alpha=-lr)


def _unit(x: Tensor) -> Tensor:
    """Divide x by its Frobenius norm; zero stays zero, and no square overflows."""
    x = x / x.abs().amax().clamp(min=torch.finfo(x.dtype).tiny)
    return x / x.norm().clamp(min=1.0)  # its largest entry is 1, or all are 0
