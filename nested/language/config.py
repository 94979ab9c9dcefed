"""All settings of a training, frozen and checked, with presets and files of settings.

Source: presets after nanoGPT's and GPT-2's sizes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nested.models import Hope, ModelConfig, Transformer
from nested.models.mixers import MIXERS
from nested.models.model import SequenceModel
from nested.support.checks import check_counts, check_seed
from nested.support.settings import check_kinds

PRECISIONS = ("float32", "bfloat16")
OPTIMIZERS = ("adamw", "muon", "m3", "dgd", "nested", "learned")
TRANSFORMER = "transformer"
SIZES = "dim layers heads periods hidden ngrams recall chunk detach_every".split()


@dataclass(frozen=True)
class TrainConfig:
    """What ``train`` trains, on what, and for how long.

    The model has ``dim``, ``layers``, ``heads``, ``chunk``, ``periods``, ``hidden``, ``ngrams``,
    ``recall`` and ``detach_every`` as in ``ModelConfig``; its ``mixer`` is one of
    ``MIXERS`` or "transformer". ``data`` are sources of ``prepare``, or one folder that it made;
    ``vocab`` is the size of a BPE, None for bytes.

    A step takes ``batch_size`` windows of ``length`` tokens, ``accumulate`` times. With ``carry``
    texts of up to ``text_length`` tokens are read on from window to window, and the state with
    them. The default None means yes, except with attention, whose state would grow. ``facts`` is
    the share of texts that state facts and ask for them, once recall is learned.

    Training ends after ``steps``, or else after ``minutes``. The rate rises to ``lr`` over the
    share ``warm_up`` of the steps, and goes down to a tenth of it by a cosine. Gradients are
    clipped to the norm ``clip``. The ``precision`` "bfloat16" computes by autocast. Raises
    ``ValueError`` for settings that make no sense.
    """

    data: tuple[str, ...] = ("shakespeare",)
    vocab: int | None = None
    mixer: str = "linear"
    dim: int = 144
    layers: int = 3
    heads: int = 4
    chunk: int = 64
    periods: tuple[int, ...] = (64,)
    hidden: int = 4
    ngrams: tuple[int, ...] = (2, 3, 4, 6)
    recall: tuple[int, ...] = (6, 16)
    detach_every: int | None = None
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 0.1
    warm_up: float = 0.05
    clip: float = 1.0
    batch_size: int = 16
    accumulate: int = 1
    length: int = 256
    carry: bool | None = None
    text_length: int = 8192
    facts: float = 0.1
    minutes: float = 15.0
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.data, str):
            object.__setattr__(self, "data", (self.data,))
        for name in ("data", "periods", "ngrams", "recall"):  # a list, if read from a file
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        check_kinds(self)
        check_seed(self.seed)
        check_counts(batch_size=self.batch_size, accumulate=self.accumulate)
        check_counts(length=self.length, text_length=self.text_length)
        check_counts(steps=1 if self.steps is None else self.steps)
        choices = {"mixer": (*MIXERS, TRANSFORMER), "optimizer": OPTIMIZERS}
        for name, known in {**choices, "precision": PRECISIONS}.items():
            if getattr(self, name) not in known:
                got = getattr(self, name)
                raise ValueError(f"{name} is one of {', '.join(known)}, but got {got!r}")
        for name in ("lr", "clip", "minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is over 0, but got {getattr(self, name)}")
        for name in ("facts", "warm_up"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, but got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is 0 or more, but got {self.weight_decay}")
        if not self.data:
            raise ValueError("data names one text or more, but got none")
        self.model_config(self.vocab or 259)  # which checks the rest

    @property
    def is_carried(self) -> bool:
        """Whether the state is carried from window to window."""
        return self.mixer not in ("attention", TRANSFORMER) if self.carry is None else self.carry

    def model_config(self, vocab: int) -> ModelConfig:
        """Return the settings of the model for tokens from 0 to ``vocab`` - 1."""
        mixer = "attention" if self.mixer == TRANSFORMER else self.mixer
        return ModelConfig(vocab=vocab, mixer=mixer, **{n: getattr(self, n) for n in SIZES})

    def build(self, vocab: int) -> SequenceModel:
        """Build the model for tokens from 0 to ``vocab`` - 1, with new weights."""
        kind = Transformer if self.mixer == TRANSFORMER else Hope
        return kind(self.model_config(vocab))


PRESETS = {
    "nano": TrainConfig(),
    "balanced": TrainConfig(dim=256, layers=6, minutes=120.0),
    "deep": TrainConfig(dim=256, layers=12, minutes=480.0, lr=2e-3, accumulate=2),
    "billion": TrainConfig(
        dim=2048,
        layers=10,
        heads=16,
        vocab=32_000,
        length=2048,
        batch_size=8,
        lr=3e-4,
        steps=100_000,
        periods=(64, 4096),
        precision="bfloat16",
    ),
}


def plain(config: TrainConfig) -> dict[str, Any]:
    """Return ``config`` as plain data, for a checkpoint."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
