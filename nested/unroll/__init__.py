"""K differentiable steps of levels 1-3 under level 4."""

from nested.unroll.batched import unroll_tasks
from nested.unroll.dispatch import detached, unroll
from nested.unroll.trajectory import Trajectory

__all__ = ["Trajectory", "detached", "unroll", "unroll_tasks"]
