"""One function for each contract: of rules, families, features, optimizers, memories, strategies.

The idea is that of scikit-learn's ``check_estimator``.
"""

from nested.conformance.check import Check, ConformanceError, Result, Verdict
from nested.conformance.context import CONTEXT_CHECKS, check_context
from nested.conformance.family import FAMILY_CHECKS, check_family
from nested.conformance.memory import MEMORY_CHECKS, check_memory
from nested.conformance.optimizer import OPTIMIZER_CHECKS, check_optimizer
from nested.conformance.strategy import STRATEGY_CHECKS, check_strategy
from nested.conformance.update_rule import UPDATE_RULE_CHECKS, check_update_rule

__all__ = [
    "CONTEXT_CHECKS",
    "FAMILY_CHECKS",
    "MEMORY_CHECKS",
    "OPTIMIZER_CHECKS",
    "STRATEGY_CHECKS",
    "UPDATE_RULE_CHECKS",
    "Check",
    "ConformanceError",
    "Result",
    "Verdict",
    "check_context",
    "check_family",
    "check_memory",
    "check_optimizer",
    "check_strategy",
    "check_update_rule",
]
