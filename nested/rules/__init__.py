"""More rules for level 4, and an optimizer that applies them.

A new rule is a file with ``@register`` above its class, and an import here.
"""

from nested.rules.classic import AdamRule, AdamWRule, RMSpropRule, SGDRule
from nested.rules.coordinatewise import CoordinatewiseRule
from nested.rules.learned_optimizer import LearnedOptimizer
from nested.rules.pretrained import load_rule, pretrained_names, read_card, save_rule
from nested.rules.registry import register

__all__ = [
    "AdamRule",
    "AdamWRule",
    "CoordinatewiseRule",
    "LearnedOptimizer",
    "RMSpropRule",
    "SGDRule",
    "load_rule",
    "pretrained_names",
    "read_card",
    "register",
    "save_rule",
]
