"""Nested learning, from the ladder up: every level of it, and the loop that learns through K steps."""

from nested.levels import (  # isort: skip
    functional_loss,
    momentum_step,
    slow_weights_step,
    Step,
    UpdateRule,
    MetaOptimizer,
    Clock,
)
from nested.unroll import Trajectory, unroll, unroll_tasks  # isort: skip

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
]
