"""Level 3: the slow weights, a memory of momentum buffers.

State: the weights.  It sees: the momentum buffer.  Clock: every batch.
Source: ``torch.optim.SGD``; Behrouz et al. 2025, eq. 10-13.
"""

from __future__ import annotations

from torch import Tensor

from nested.levels.forward import Params
from nested.levels.momentum import add_scaled


def slow_weights_step(params: Params, buffer: Params, lr: Tensor | float) -> Params:
    """Move the weights against the buffer: ``w <- w - eta v``.

    ``params`` and ``buffer`` are {name: (...)} with the same names and shapes, and so is the
    result. ``lr`` (eta) is a float, a tensor (), or one eta for each of T tasks, (T,). The function
    is pure, and differentiable in all three arguments: that is how level 4 learns ``lr``. Raises
    ``KeyError`` for a weight without a buffer. With ``momentum_step`` this is
    ``torch.optim.SGD(momentum=mu)``.
    """
    return {name: add_scaled(w, -lr, buffer[name]) for name, w in params.items()}
