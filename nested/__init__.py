"""Nested learning: the levels of the ladder, and the loop that learns through K of their steps."""

from importlib.util import find_spec  # isort: skip

from nested.levels import (  # isort: skip
    functional_loss,
    momentum_step,
    slow_weights_step,
    Step,
    UpdateRule,
    MetaOptimizer,
    Clock,
)
from nested.unroll import Trajectory, detached, unroll, unroll_tasks  # isort: skip
from nested.tasks import Task, TaskFamily  # isort: skip
from nested.meta import MetaConfig, MetaHistory, RaceResult, meta_train, race  # isort: skip

__all__ = [
    "functional_loss",
    "momentum_step",
    "slow_weights_step",
    "Step",
    "UpdateRule",
    "MetaOptimizer",
    "Clock",
    "Trajectory",
    "unroll",
    "unroll_tasks",
    "detached",
    "Task",
    "TaskFamily",
    "MetaConfig",
    "MetaHistory",
    "meta_train",
    "RaceResult",
    "race",
]

if find_spec("nested.fast"):  # the same numbers sooner: this folder may be deleted
    import nested.fast  # noqa: F401
