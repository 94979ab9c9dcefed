"""A rule around another rule, with the same horizon and the same need of the loss.

Source: the decorator pattern.
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
        """The inner rule's horizon. Raises ``AttributeError`` for a rule that uses none."""
        return self.rule.total_steps
