"""The ladder: one small file per level of nested learning. Read them in the order listed here."""

from nested.levels.forward import Batch, LossFn, Params, State, functional_loss  # isort: skip
from nested.levels.momentum import momentum_step  # isort: skip
from nested.levels.slow_weights import slow_weights_step  # isort: skip
from nested.levels.rule import Step, UpdateRule  # isort: skip
from nested.levels.context import Context, look, observe  # isort: skip
from nested.levels.meta_optimizer import MetaOptimizer  # isort: skip
from nested.levels.clock import Clock  # isort: skip
from nested.levels.detach import detached  # isort: skip

__all__ = [
    "Batch",
    "Clock",
    "Context",
    "LossFn",
    "MetaOptimizer",
    "Params",
    "State",
    "Step",
    "UpdateRule",
    "detached",
    "functional_loss",
    "look",
    "momentum_step",
    "observe",
    "slow_weights_step",
]
