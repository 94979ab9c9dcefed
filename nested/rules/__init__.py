"""More rules for level 4, and optimizers made of them."""

from nested.rules.classic import AdamRule, AdamWRule, RMSpropRule, SGDRule
from nested.rules.coordinatewise import CoordinatewiseRule
from nested.rules.learned_optimizer import LearnedOptimizer
from nested.rules.per_tensor import PerTensorRule
from nested.rules.pretrained import load_rule, pretrained_names, read_card, save_rule

__all__ = [
    "AdamRule",
    "AdamWRule",
    "CoordinatewiseRule",
    "LearnedOptimizer",
    "PerTensorRule",
    "RMSpropRule",
    "SGDRule",
    "load_rule",
    "pretrained_names",
    "read_card",
    "save_rule",
]
