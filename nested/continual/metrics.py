"""What a learner keeps: accuracy, forgetting and transfer, from one matrix of accuracies.

``matrix`` (T, T): row t is measured after task t, and column i on the held-out data of task i.
Letters: T tasks. Source: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840); Chaudhry et al. 2018 (arXiv
1801.10112).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def average_accuracy(matrix: Tensor) -> float:
    """Compute the mean accuracy on all tasks after the last one, of a ``matrix`` (T, T).

    Source: ACC of Lopez-Paz and Ranzato 2017. Raises ``ValueError`` for another shape."""
    return _checked(matrix)[-1].mean().item()


def forgetting(matrix: Tensor) -> float:
    """Compute how much worse each task but the last is at the end than at its best before, on
    average, from a ``matrix`` (T, T). It is negative where tasks get better to the end, and 0 for
    one task.

    Source: Chaudhry et al. 2018, equation 3. Raises ``ValueError`` for another shape."""
    matrix = _checked(matrix)
    if len(matrix) == 1:
        return 0.0
    return (matrix[:-1, :-1].max(0).values - matrix[-1, :-1]).mean().item()


def backward_transfer(matrix: Tensor) -> float:
    """Compute how much later tasks changed the accuracy on each task, on average, from a ``matrix``
    (T, T). It is 0 for one task.

    Source: BWT of Lopez-Paz and Ranzato 2017. Raises ``ValueError`` for another shape."""
    matrix = _checked(matrix)
    if len(matrix) == 1:
        return 0.0
    return (matrix[-1] - matrix.diagonal())[:-1].mean().item()


def forward_transfer(matrix: Tensor, untrained: Tensor | Sequence[float] | float = 0.0) -> float:
    """Compute how much better each task is just before it is learned than ``untrained``, on
    average, from a ``matrix`` (T, T). It is 0 for one task.

    ``untrained`` are the accuracies of a net that has learned nothing, (T,), or one for all tasks.
    Source: FWT of Lopez-Paz and Ranzato 2017. Raises ``ValueError`` for another shape."""
    matrix = _checked(matrix)
    before = torch.as_tensor(untrained, dtype=matrix.dtype)
    if before.dim() and before.shape != matrix.shape[:1]:
        raise ValueError(f"untrained has {len(matrix)} accuracies, but got {tuple(before.shape)}")
    if len(matrix) == 1:
        return 0.0
    return (matrix.diagonal(1) - before.expand(len(matrix))[1:]).mean().item()


def learning_accuracy(matrix: Tensor) -> float:
    """Compute the mean accuracy on each task just after it was learned, of a ``matrix`` (T, T).

    Source: Riemer et al. 2019 (arXiv 1810.11910). Raises ``ValueError`` for another shape."""
    return _checked(matrix).diagonal().mean().item()


def any_time_average(matrix: Tensor) -> float:
    """Compute the mean accuracy on the tasks so far, averaged over the ends of all tasks, of a
    ``matrix`` (T, T).

    Source: "average incremental accuracy" of Rebuffi et al. 2017 (arXiv 1611.07725). Raises
    ``ValueError`` for another shape."""
    matrix = _checked(matrix)
    return torch.stack([row[: t + 1].mean() for t, row in enumerate(matrix)]).mean().item()


METRICS = {
    "accuracy": average_accuracy,
    "forgetting": forgetting,
    "backward transfer": backward_transfer,
    "forward transfer": forward_transfer,
    "learning accuracy": learning_accuracy,
    "any-time average": any_time_average,
}


def _checked(matrix: Tensor) -> Tensor:
    matrix = torch.as_tensor(matrix, dtype=torch.float64)
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.numel():
        raise ValueError(f"a matrix of accuracies is (tasks, tasks), but got {tuple(matrix.shape)}")
    return matrix
