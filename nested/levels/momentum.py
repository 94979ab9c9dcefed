"""Level 2: the momentum buffer, a memory of past gradients.

State: one buffer for each weight.  It sees: gradients.  Clock: every batch.
Source: Polyak 1964, in the form of ``torch.optim.SGD``; Behrouz et al. 2025, eq. 10-13.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.levels.forward import Params

LARGE = 2**13  # numbers in a tensor: temporaries of this size would double a long unroll's memory


def momentum_step(buffer: Params, grads: Params, momentum: Tensor | float) -> Params:
    """Add new gradients to the buffer: ``v <- mu v + g``.

    ``buffer`` and ``grads`` are {name: (...)} with the same names and shapes, and so is the result.
    ``momentum`` (mu, usually in [0, 1)) is a float, a tensor (), or one mu for each of T tasks,
    (T,). The function is pure, and differentiable in all three arguments. Raises ``KeyError`` for a
    gradient without a buffer.

    This is the form of ``torch.optim.SGD`` without dampening: the learning rate acts later, in
    level 3. The paper's form, ``m <- a m - eta g``, ``W <- W + m`` (eq. 10-13), gives the same
    weights only while the learning rate is constant.
    """
    return {name: add_scaled(g, momentum, buffer[name]) for name, g in grads.items()}


def add_scaled(x: Tensor, factor: Tensor | float, y: Tensor) -> Tensor:
    """Return ``x + factor y`` (...), in the dtype of x. A factor (T,) scales each of T tasks."""
    is_tensor = isinstance(factor, Tensor)
    if is_tensor and factor.dim():
        factor = factor.view(factor.shape + (1,) * (y.dim() - factor.dim()))
    if is_tensor and x.numel() >= LARGE:  # without a temporary for factor y
        total = torch.addcmul(x, factor, y)
    else:
        total = x + factor * y
    return total if total.dtype == x.dtype else total.to(x.dtype)
