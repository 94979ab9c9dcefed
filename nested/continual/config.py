"""All settings of an experiment, frozen and checked, with presets.

Source: streams of van de Ven and Tolias 2019 (arXiv 1904.07734), made harder step by step.
"""

from __future__ import annotations

from dataclasses import dataclass

from nested.continual.composition import check_shares
from nested.continual.nets import KINDS as NETS
from nested.continual.registry import STRATEGIES
from nested.continual.run import PRECISIONS
from nested.continual.stream import KINDS
from nested.support.checks import check_counts, check_seed
from nested.support.settings import check_kinds
from nested.tasks.data_sets import DATA

MOST_COPIES = 1000
TUNING = 10_000  # streams from this seed on are for tuning, and are not measured


@dataclass(frozen=True)
class ContinualConfig:
    """What is learned, by whom, and how it is measured.

    ``data`` are one of ``DATA``, from ``path``, with at most ``limit`` examples of each class to
    learn from. The stream is of ``kind``, with ``tasks``, ``blur``, ``interference``, ``ood`` and
    ``batch_size`` as in ``make_stream``. Every strategy trains a ``net`` of ``width`` for
    ``epochs``.

    All may store equally many numbers: ``copies`` times those of the net's weights, and as many as
    ``examples`` examples have. Each strategy is tuned on ``trials`` settings with up to
    ``tuning_seeds`` streams, and measured on ``seeds`` others. Tuning never sees their held-out
    examples. Raises ``ValueError`` for settings that make no sense."""

    data: str = "digits"
    path: str | None = None
    limit: int | None = None
    kind: str = "class"
    tasks: int = 5
    blur: float = 0.0
    interference: float = 0.0
    ood: float = 0.0
    batch_size: int = 10
    epochs: int = 1
    net: str = "mlp"
    width: int = 32
    copies: float = 2.0
    examples: int = 50
    strategies: tuple[str, ...] = tuple(STRATEGIES)
    seeds: int = 30
    seed: int = 0
    trials: int = 40
    tuning_seeds: int = 8
    device: str = "auto"
    precision: str = "float32"
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.strategies, list):
            object.__setattr__(self, "strategies", tuple(self.strategies))
        check_kinds(self)
        check_seed(self.seed)
        for name in ("tasks", "batch_size", "epochs", "width", "seeds", "trials", "tuning_seeds"):
            check_counts(**{name: getattr(self, name)})
        check_counts(limit=1 if self.limit is None else self.limit)
        check_shares(blur=self.blur, interference=self.interference, ood=self.ood)
        choices = {"data": DATA, "kind": KINDS, "net": NETS, "precision": PRECISIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                got = getattr(self, name)
                raise ValueError(f"{name} is one of {', '.join(known)}, but got {got!r}")
        for name in self.strategies:
            if name not in STRATEGIES:
                known = ", ".join(STRATEGIES)
                raise ValueError(f"there is no strategy {name!r}; strategies: {known}")
        if not self.strategies or len({*self.strategies}) < len(self.strategies):
            raise ValueError(f"strategies are one or more, each once, but got {self.strategies}")
        if not 0 <= self.copies <= MOST_COPIES or self.examples < 0:
            raise ValueError(
                f"copies are a number from 0 to {MOST_COPIES}, and examples one from 0"
            )
        if self.seed + self.seeds > TUNING:
            raise ValueError(f"streams from {TUNING} on are for tuning: take a lower seed")


PRESETS = {
    "easy": ContinualConfig(),
    "realistic": ContinualConfig(blur=0.1, interference=0.05, ood=0.05),
    "hard": ContinualConfig(tasks=10, blur=0.2, interference=0.1, ood=0.1, examples=20),
}
