"""Update frequency (the paper's Definition 2): how often a level moves.

Between two moves a level still takes part in every forward pass. Only its update waits.
Source: Behrouz et al. 2025 (arXiv 2512.24695), Definition 2.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Says when a level moves: at every ``period``-th step, counted from 1.

    ``period`` is a whole number of steps (batches or tokens, whatever the caller counts), at least
    1; anything else raises ``ValueError``. The frequency of Definition 2 is ``1 / period``.

    >>> [step for step in range(1, 8) if Clock(3).due(step)]
    [3, 6]
    """

    period: int

    def __post_init__(self) -> None:
        if not isinstance(self.period, int) or isinstance(self.period, bool) or self.period < 1:
            raise ValueError(f"a clock's period is a whole number from 1, but got {self.period!r}")

    def due(self, step: int) -> bool:
        """Whether the level moves at ``step``, a whole number counted from 1; raises ``ValueError``
        for 0 or less. Source: Definition 2."""
        if step < 1:
            raise ValueError(f"steps count from 1, but got step {step}")
        return step % self.period == 0
