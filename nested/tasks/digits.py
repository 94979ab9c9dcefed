"""Classify real handwritten digits; each task relabels them and changes their contrast.

Source: UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), by way of
scikit-learn; relabelled classes as tasks after Santoro et al. 2016 (arXiv 1605.06065).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy
import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch
from nested.support.checks import check_counts
from nested.tasks.family import (
    NetTask,
    TwoSided,
    check_range,
    check_split,
    draw_log_uniform,
)

PIXELS, CLASSES = 64, 10
META_TRAINING, HELD_OUT = slice(0, 1200), slice(1200, 1797)  # images, in file order


@cache
def load_digits() -> tuple[Tensor, Tensor]:
    """Return the 1,797 images, (1797, 64) float32 in [0, 1], and their labels, (1797,) int64.

    Source: the test part of UCI's "Optical Recognition of Handwritten Digits", as scikit-learn
    ships it; see ``nested/tasks/data/README.md``.
    """
    with files("nested.tasks").joinpath("data/digits.npz").open("rb") as file:
        arrays = numpy.load(file, allow_pickle=False)
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    return images.float() / 16, labels.long()


@cache
def _split_digits(
    is_held_out: bool, device: torch.device | str, dtype: torch.dtype
) -> dict[str, tuple[Tensor, Tensor]]:
    side = HELD_OUT if is_held_out else META_TRAINING
    images, labels = (part[side] for part in load_digits())
    images, labels = images.to(device, dtype), labels.to(device)
    query = torch.arange(len(labels)) % 4 == 3
    return {"train": (images[~query], labels[~query]), "query": (images[query], labels[query])}


class Digits(TwoSided):
    """Classify 8x8 digits with a small net: 64 inputs, ``depth`` layers of ``hidden`` units, 10
    classes.

    Letters: B ``batch_size``, or ``query_size`` for queries. Each task draws a relabelling of the
    ten classes and a contrast (log-uniform in ``contrast``), so that no single schedule fits all.
    Batches are (images (B, 64) times the contrast, labels (B,) int64); the loss is cross entropy,
    in nats.

    Meta-training tasks use the first 1,200 images and even permutations of the labels. Held-out
    tasks use the other 597 images and odd permutations. So the sides share no image and no
    relabelling. On each side, every fourth image is kept for queries. ``settings``: see
    ``TwoSided``. Raises ``ValueError`` for sizes under 1 or an empty range.
    """

    def __init__(
        self,
        batch_size: int = 32,
        query_size: int = 64,
        hidden: int = 32,
        contrast: tuple[float, float] = (1 / 3, 3.0),
        depth: int = 1,
        activation: type[nn.Module] = nn.ReLU,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_counts(batch_size=batch_size, query_size=query_size, hidden=hidden, depth=depth)
        check_range("contrast", contrast)
        self.sizes = {"train": batch_size, "query": query_size}
        self.hidden, self.contrast, self.depth = hidden, contrast, depth
        self.activation = activation.__name__
        widths = [PIXELS, *[hidden] * depth]
        layers = [
            part for i in range(depth) for part in (nn.Linear(*widths[i : i + 2]), activation())
        ]
        net = nn.Sequential(*layers, nn.Linear(hidden, CLASSES))
        self.set_net(net, nn.functional.cross_entropy)

    @property
    def pools(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Images and labels of this side, {split: ((N, 64), (N,))}."""
        return _split_digits(self.is_held_out, self.device, self.dtype)

    def sample(self, generator: Generator) -> DigitsTask:
        relabelling = torch.randperm(CLASSES, generator=generator)
        is_odd = torch.linalg.det(torch.eye(CLASSES, dtype=torch.float32)[relabelling]) < 0
        if is_odd != self.is_held_out:
            relabelling[:2] = relabelling[:2].flip(0)  # one swap changes the parity
        contrast = draw_log_uniform(*self.contrast, generator)
        return DigitsTask(self, relabelling.to(self.device), contrast)


@dataclass(frozen=True)
class DigitsTask(NetTask):
    """A task of ``Digits``: ``relabelling`` (10,) maps true digits to the task's labels, and
    ``contrast`` multiplies its images (B, 64)."""

    family: Digits
    relabelling: Tensor
    contrast: float

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        images, labels = self.batches([self], generator, split)
        return images[0], labels[0]

    @staticmethod
    def batches(tasks: Sequence[DigitsTask], generator: Generator, split: str) -> Batch:
        """Draw T batches at once: images (T, B, 64) and labels (T, B). This saves launches on a
        GPU. Raises ``ValueError`` for an unknown split."""
        check_split(split)
        family = tasks[0].family
        images, labels = family.pools[split]
        shape = len(tasks), family.sizes[split]
        rows = torch.randint(len(labels), shape, generator=generator).to(labels.device)
        contrasts = torch.tensor([task.contrast for task in tasks], dtype=images.dtype)
        relabellings = torch.stack([task.relabelling for task in tasks])
        contrasted = images[rows] * contrasts.to(images.device)[:, None, None]
        return contrasted, relabellings.gather(1, labels[rows])
