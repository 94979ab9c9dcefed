"""What happened in meta-training, as plain numbers.

Source: the curves that Andrychowicz et al. 2016 (arXiv 1606.04474) report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class MetaRecord(NamedTuple):
    """One meta-step, as plain numbers: losses in the task's unit, norms in loss per unit of
    rule."""

    step: int  # meta-step, from 1
    inner_step: int  # inner steps the runs had made before this window
    meta_loss: float
    grad_norm: float  # of the hypergradient, before clipping
    skipped: bool  # the hypergradient was not finite, so level 4 did not move
    signals: dict[str, float]  # mean over tasks and steps


@dataclass
class MetaHistory:
    """What happened, one ``MetaRecord`` per meta-step."""

    records: list[MetaRecord] = field(default_factory=list)

    @property
    def skipped(self) -> int:
        """How many updates were skipped because the hypergradient was not finite."""
        return sum(record.skipped for record in self.records)
