"""The ladder: one small file per level of nested learning. Read the files in the order below.

Shapes are written as (B, D): a file names its letters at its top. ``()`` is a tensor with one
number, ``(...)`` a tensor of any shape, and ``{name: (...)}`` a dict of tensors. When T tasks run
side by side, every tensor has a leading T.
"""

from nested.levels.forward import Batch, LossFn, Params, State, functional_loss  # isort: skip
from nested.levels.momentum import momentum_step  # isort: skip
from nested.levels.slow_weights import slow_weights_step  # isort: skip
from nested.levels.rule import Step, UpdateRule  # isort: skip
from nested.levels.context import FEATURES, context_vector  # isort: skip
from nested.levels.meta_optimizer import MetaOptimizer  # isort: skip
from nested.levels.clock import Clock  # isort: skip
from nested.levels.detach import detached  # isort: skip
