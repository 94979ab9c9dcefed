"""Level 3: the slow weights, a memory of momentum buffers.

State: the weights.  It sees: the momentum buffer.  Clock: every batch.
Source: ``torch.optim.SGD``; Behrouz et al. 2025, eq. 10-13.
"""

from __future__ import annotations

from torch import Tensor

from nested.levels.forward import Params
from nested.levels.momentum import add_scaled


def slow_weights_step(params: Params, buffer: Params, lr: Tensor | float) -> Params:
    """Return the next weights, ``w <- w - eta v``: pure, and differentiable in all three arguments.

    ``params`` and ``buffer`` are {name: (...)} with the same names and shapes, and so is the
    result; ``lr`` (eta, weight change per unit of buffer and inner step) is a float, a scalar
    tensor, or one eta for each of T tasks, (T,), whose tensors are (T, ...). Raises ``KeyError``
    for a weight without a buffer. A tensor keeps its gradient: that is how level 4 learns. With
    ``momentum_step`` this is ``torch.optim.SGD(momentum=mu)``.
    """
    # w <- w - eta v
    return add_scaled(params, buffer, -lr)
