"""A rule around another rule: told what that is told, and seeing what that sees.

Source: ours.
"""

from __future__ import annotations

from nested.levels.rule import UpdateRule


class Wrapped(UpdateRule):
    """The part that all rules around a ``rule`` share; ``for_horizon`` is left to them."""

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule, self.needs_loss = rule, rule.needs_loss

    @property
    def total_steps(self) -> int | None:
        """What the rule was told, if it is one that is told; else ``AttributeError``."""
        return self.rule.total_steps
