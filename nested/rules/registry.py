"""The rules that files may name: a class decorated with ``@register`` can be saved and loaded.

Source: the registries of ``torch`` and others, a dict from names to classes.
"""

from __future__ import annotations

from typing import TypeVar

from nested.levels.meta_optimizer import MetaOptimizer
from nested.levels.rule import UpdateRule

Rule = TypeVar("Rule", bound=type[UpdateRule])
RULES: dict[str, type[UpdateRule]] = {"MetaOptimizer": MetaOptimizer}


def register(rule: Rule) -> Rule:
    """Let ``load_rule`` find a class of rules by its name. Use it as a decorator: ``@register``.

    Raises ``ValueError`` for a name that another class has.
    """
    if RULES.setdefault(rule.__name__, rule) is not rule:
        raise ValueError(f"there is a rule {rule.__name__} already: give yours another name")
    return rule
