"""Optimizers as memories: drop-in ``torch.optim`` classes, each with another kind of memory."""

from nested.optim.as_memories import (
    energy,
    minimise,
    momentum_objective,
    read_as_memories,
    regression_objective,
)
from nested.optim.deep_momentum import DeepMomentum
from nested.optim.delta_momentum import DeltaMomentum
from nested.optim.dgd import DGD
from nested.optim.m3 import M3
from nested.optim.matrix_groups import matrix_groups
from nested.optim.multi_frequency import NestedOptimizer
from nested.optim.newton_schulz import newton_schulz
from nested.optim.periods import periods_by_depth, periods_by_name

__all__ = [
    "DGD",
    "M3",
    "DeepMomentum",
    "DeltaMomentum",
    "NestedOptimizer",
    "energy",
    "matrix_groups",
    "minimise",
    "momentum_objective",
    "newton_schulz",
    "periods_by_depth",
    "periods_by_name",
    "read_as_memories",
    "regression_objective",
]
