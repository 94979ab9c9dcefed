"""One check for each contract, in the spirit of scikit-learn's ``check_estimator``."""

from nested.conformance.check import Check, ConformanceError, Result, Verdict
from nested.conformance.update_rule import UPDATE_RULE_CHECKS, check_update_rule

__all__ = [
    "UPDATE_RULE_CHECKS",
    "Check",
    "ConformanceError",
    "Result",
    "Verdict",
    "check_update_rule",
]
