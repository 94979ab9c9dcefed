"""One frozen description of a sequence model, for all models here.

Source: parts as in Behrouz et al. 2025 (arXiv 2512.24695), section 8. The default sizes are small
enough for two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nested.memory.continuum import check_periods
from nested.memory.linear import check_objective
from nested.memory.sequence import check_truncation
from nested.models.mixers import MIXERS
from nested.support.checks import check_counts

LONGEST = 64  # tokens of an n-gram
MOST_LAYERS, MOST_TOKENS = 10_000, 1 << 30  # larger numbers are a mistake


@dataclass(frozen=True)
class ModelConfig:
    """The sizes and parts of a model. Raises ``ValueError`` for a model that cannot be built.

    ``vocab`` is the number of tokens, ``dim`` the width and ``heads`` the number of heads of
    attention or of memories; ``dim / heads`` is even.
    The ``mixer`` of ``Hope`` is a name in ``MIXERS``. It learns by its ``objective``, "l2" or "dot"
    ("selfmod" and "linear"; others have one way to learn), and reads ``chunk`` tokens at a time.
    Mixer and objective can also be tuples with one name for each block. The mixers "linear" and
    "selfmod" make ``products`` writes for each token.
    ``periods`` are the clocks of the continuum memory, in tokens. With ``hidden`` = H over 0 each
    block of ``Hope`` ends with a net of H x ``dim`` hidden units, as a block of a Transformer does.
    Only training moves the weights of this net. ``ngrams`` are the sizes n, from 2, of the n-grams
    whose vectors are added to the embedding. ``recall`` are the sizes of those for which the first
    block of ``Hope`` remembers what followed, in an ``NGramMemory``. ``detach_every`` truncates
    gradients through the writes of memories every that many tokens; None never does.
    """

    vocab: int = 256
    dim: int = 128
    layers: int = 2
    heads: int = 4
    mixer: str | tuple[str, ...] = "selfmod"
    periods: tuple[int, ...] = (16, 64, 256)
    chunk: int = 64
    objective: str | tuple[str, ...] = "l2"
    products: int = 1
    hidden: int = 0
    ngrams: tuple[int, ...] = ()
    recall: tuple[int, ...] = ()
    detach_every: int | None = None

    def __post_init__(self) -> None:
        self._check_sizes()
        for name in ("ngrams", "recall"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("mixer", "objective"):
            object.__setattr__(self, name, self._checked(name))
        for mixer in self._names("mixer"):
            if not isinstance(mixer, str) or mixer not in MIXERS:
                raise ValueError(f"mixer is one of {tuple(MIXERS)}, but got {mixer!r}")
        for objective in self._names("objective"):
            check_objective(objective)
        if self.products > 1 and not any(MIXERS[m].has_products for m in self._names("mixer")):
            able = tuple(name for name, mixer in MIXERS.items() if mixer.has_products)
            raise ValueError(
                f"products over 1 need a mixer that makes them, one of {able}, but got"
                f" {self.mixer!r} with products={self.products}"
            )
        check_periods(self.periods, "sequential")
        object.__setattr__(self, "periods", tuple(self.periods))  # from a list, if read from a file
        if self.detach_every is not None:
            check_counts(detach_every=self.detach_every)
            needs_ends = any(MIXERS[mixer].needs_chunk_ends for mixer in self._names("mixer"))
            for period in (*self.periods, self.chunk) if needs_ends else self.periods:
                check_truncation(self.detach_every, period)

    def _check_sizes(self) -> None:
        names = ("vocab", "dim", "layers", "heads", "chunk", "products")
        check_counts(**{name: getattr(self, name) for name in names})
        for name, most in {"layers": MOST_LAYERS, "vocab": MOST_TOKENS}.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} cannot be over {most:,}, but got {getattr(self, name):,}")
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim is a multiple of 2 x heads, which is {2 * self.heads}, but got {self.dim}"
            )
        if type(self.hidden) is not int or self.hidden < 0:
            raise ValueError(f"hidden is a whole number from 0, but got {self.hidden!r}")
        for name in ("ngrams", "recall"):
            sizes = getattr(self, name)
            all_sizes = sizes if isinstance(sizes, (tuple, list)) else (None,)
            if any(type(n) is not int or not 2 <= n <= LONGEST for n in all_sizes):
                raise ValueError(f"{name} are numbers from 2 to {LONGEST}, but got {sizes!r}")

    def for_block(self, i: int) -> ModelConfig:
        """Return these settings with the mixer and the objective of block ``i``."""
        mixer, objective = (
            value if isinstance(value, str) else value[i] for value in (self.mixer, self.objective)
        )
        products = self.products if MIXERS[mixer].has_products else 1
        parts = {"mixer": mixer, "objective": objective, "recall": () if i else self.recall}
        return replace(self, products=products, **parts)

    def _names(self, name: str) -> tuple[str, ...]:
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,)

    def _checked(self, name: str) -> str | tuple[str, ...]:
        value = getattr(self, name)
        if not isinstance(value, (tuple, list)):
            return value
        if len(value) != self.layers:
            raise ValueError(
                f"{name} is one name, or one for each of {self.layers} blocks, but got {value}"
            )
        return tuple(value)
