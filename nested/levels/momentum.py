"""Level 2: the momentum buffer, a memory of past gradients.

State: one buffer for each weight.  It sees: gradients.  Clock: every batch.
Source: Polyak 1964, in the form of ``torch.optim.SGD``; Behrouz et al. 2025, eq. 10-13.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.levels.forward import Params

LARGE = 2**13  # numbers in a tensor


def momentum_step(buffer: Params, grads: Params, momentum: Tensor | float) -> Params:
    """Return the next buffer, ``v <- mu v + g``: pure, and differentiable in all three arguments.

    ``buffer`` and ``grads`` are {name: (...)} with the same names and shapes, in units of loss per
    unit of weight, and so is the result; ``momentum`` (mu, no unit, usually in [0, 1)) is a float,
    a scalar tensor, or one mu for each of T tasks, (T,), whose tensors are (T, ...). Raises
    ``KeyError`` for a gradient without a buffer. This is PyTorch's
    convention (``torch.optim.SGD`` without dampening): the learning rate acts later, in level 3.
    The paper's, ``m <- a m - eta g``, ``W <- W + m`` (eq. 10-13), is the same only while the
    learning rate is constant.
    """
    # v <- mu v + g
    return {name: add_scaled(g, buffer[name], momentum) for name, g in grads.items()}


def add_scaled(x: Tensor, y: Tensor, factor: Tensor | float) -> Tensor:
    """Return ``x + factor y``, (...), in the dtype of ``x``: a wider factor must not widen it. With
    a factor for each of T tasks, (T,), the tensors are (T, ...). Raises ``RuntimeError`` for
    another T."""
    is_tensor = isinstance(factor, Tensor)
    if is_tensor and factor.dim():
        factor = factor.reshape(-1, *[1] * (x.dim() - 1))
    if is_tensor and x.numel() >= LARGE:  # without the temporary factor * y, which costs memory
        total = torch.addcmul(x, y, factor)
    else:
        total = x + factor * y
    return total if total.dtype == x.dtype else total.to(x.dtype)
