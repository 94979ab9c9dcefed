"""One frozen description of a sequence model, for all models here.

Source: parts as in Behrouz et al. 2025 (arXiv 2512.24695), section 8. The default sizes are small
enough for two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass

from nested.memory.continuum import check_periods
from nested.memory.linear import check_objective
from nested.memory.sequence import check_truncation
from nested.models.mixers import MIXERS
from nested.support.checks import check_counts


@dataclass(frozen=True)
class ModelConfig:
    """The sizes and parts of a model. Raises ``ValueError`` for a model that cannot be built.

    ``vocab`` is the number of tokens, ``dim`` the width and ``heads`` the number of heads of
    attention or of memories; ``dim / heads`` is even. The ``mixer`` of ``Hope`` is a name in
    ``MIXERS``. It learns by its ``objective``, "l2" or "dot" (for "selfmod" and "linear"), and
    reads ``chunk`` tokens at a time. The mixer "linear" makes ``products`` writes for each token.
    ``periods`` are the clocks of the continuum memory, in tokens. ``detach_every`` truncates
    gradients through the writes of memories every that many tokens; None never does.
    """

    vocab: int = 256
    dim: int = 128
    layers: int = 2
    heads: int = 4
    mixer: str = "selfmod"
    periods: tuple[int, ...] = (16, 64, 256)
    chunk: int = 64
    objective: str = "l2"
    products: int = 1
    detach_every: int | None = None

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name)
            for name in ("vocab", "dim", "layers", "heads", "chunk", "products")
        }
        check_counts(**counts)
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim is a multiple of 2 x heads, which is {2 * self.heads}, but got {self.dim}"
            )
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer is one of {tuple(MIXERS)}, but got {self.mixer!r}")
        check_objective(self.objective)
        check_periods(self.periods, "sequential")
        object.__setattr__(self, "periods", tuple(self.periods))  # from a list, if read from a file
        if self.detach_every is not None:
            check_counts(detach_every=self.detach_every)
            needs_ends = MIXERS[self.mixer].needs_chunk_ends
            for period in (*self.periods, self.chunk) if needs_ends else self.periods:
                check_truncation(self.detach_every, period)
