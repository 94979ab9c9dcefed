"""The smallest family: learn to add the inputs.

Source: linear regression by gradient descent, the smallest problem where a step size matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Generator, nn

from nested.levels.forward import Batch
from nested.support.checks import check_counts
from nested.tasks.family import (
    NetTask,
    TwoSided,
    check_noise,
    check_range,
    check_split,
    draw_log_uniform,
    draw_normal,
    own_generator,
)


class SumRegression(TwoSided):
    """Fit ``target = sum(inputs) + noise`` with a linear model, by its mean squared error.

    Letters: B ``batch_size``, D ``dim``. Each task draws the scale of its inputs, log-uniform in
    ``scale``; the best learning rate depends on it. Batches are (inputs (B, D), targets (B, 1)).
    Every batch is drawn anew, train and query batches from different seeds. ``noise`` is the
    standard deviation of the noise, so the best loss is its square. ``settings``: see ``TwoSided``.
    Raises ``ValueError`` for sizes under 1, a negative noise or an empty range.
    """

    def __init__(
        self,
        dim: int = 8,
        batch_size: int = 32,
        noise: float = 0.01,
        scale: tuple[float, float] = (0.2, 1.0),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_counts(dim=dim, batch_size=batch_size)
        check_range("scale", scale)
        check_noise(noise)
        self.dim, self.batch_size, self.noise, self.scale = dim, batch_size, noise, scale
        self.set_net(nn.Linear(dim, 1), nn.functional.mse_loss)

    def sample(self, generator: Generator) -> SumRegressionTask:
        generator = own_generator(generator, self.is_held_out)
        return SumRegressionTask(self, draw_log_uniform(*self.scale, generator))


@dataclass(frozen=True)
class SumRegressionTask(NetTask):
    """A task of ``SumRegression``: its inputs have standard deviation ``scale``."""

    family: SumRegression
    scale: float

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family = self.family
        generator = own_generator(generator, split == "query")
        inputs = self.scale * draw_normal((family.batch_size, family.dim), generator)
        noise = family.noise * draw_normal((family.batch_size, 1), generator)
        targets = inputs.sum(1, keepdim=True) + noise
        return family.place(inputs, targets)
