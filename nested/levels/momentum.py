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
    return add_scaled(grads, buffer, momentum)


def add_scaled(xs: Params, ys: Params, factor: Tensor | float) -> Params:
    """Return ``x + factor y`` for all of ``xs`` {name: (...)}, in the dtype of x: a wider factor
    must not widen it. With a factor for each of T tasks, (T,), the tensors are (T, ...). Raises
    ``RuntimeError`` for another T, ``KeyError`` for an x without a y."""
    is_tensor, out = isinstance(factor, Tensor), {}
    has_tasks = is_tensor and factor.dim()
    for name, x in xs.items():
        by = factor.reshape(-1, *[1] * (x.dim() - 1)) if has_tasks else factor
        if is_tensor and x.numel() >= LARGE:  # without the temporary by * y, which costs memory
            total = torch.addcmul(x, ys[name], by)
        else:
            total = x + by * ys[name]
        out[name] = total if total.dtype == x.dtype else total.to(x.dtype)
    return out
