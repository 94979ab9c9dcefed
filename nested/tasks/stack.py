"""Put T tasks side by side: weights and batches with a leading dimension T.

Source: the layout that ``nested.unroll_tasks`` takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator

from nested.levels.forward import Batch, Params
from nested.tasks.family import Task
from nested.unroll.over_tasks import set_beside, stack_tasks


def stack_init(tasks: Sequence[Task], generator: Generator) -> Params:
    """Draw the initial weights of T tasks, {name: (T, ...)}. Raises ``RuntimeError`` if their
    weights differ in shape."""
    return stack_tasks([task.init(generator) for task in tasks])


def stack_batch(tasks: Sequence[Task], generator: Generator, split: str = "train") -> Batch:
    """Draw one batch for each of T tasks, tensors (T, ...).

    Tasks of one class and family are drawn at once if the class has ``batches``: see ``Task``.
    Others are drawn one after another. Raises ``ValueError`` for a split that is neither "train"
    nor "query".
    """
    kinds = {(type(task), id(getattr(task, "family", None))) for task in tasks}
    draw_at_once = set_beside(type(tasks[0]), "batch", "batches")
    if len(kinds) == 1 and draw_at_once:
        return draw_at_once(tasks, generator, split)
    return stack_tasks([task.batch(generator, split) for task in tasks])
