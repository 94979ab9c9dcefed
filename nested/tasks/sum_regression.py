"""The smallest family: learn that the target is the sum of the inputs.

Source: linear regression by gradient descent, the least problem on which a step size matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, nn

from nested.levels.forward import Batch, functional_loss
from nested.support.checks import check_counts
from nested.tasks.family import (
    NetTask,
    TwoSided,
    check_noise,
    check_range,
    check_split,
    draw_log_uniform,
    own_generator,
)


class SumRegression(TwoSided):
    """A linear model learns ``target = sum(inputs) + noise`` by its mean squared error.

    Letters: B ``batch_size``, D ``dim``. Each task draws the scale of its inputs (log-uniform in
    ``scale``), and with it the learning rate that suits it. Batches are (inputs (B, D), targets
    (B, 1)), drawn anew each time, train and query from other seeds, so that they never meet.
    ``noise`` is the standard deviation of the noise: the best loss is its square. Raises
    ``ValueError`` for sizes under 1, a negative noise or an empty range.
    """

    def __init__(
        self,
        dim: int = 8,
        batch_size: int = 32,
        noise: float = 0.01,
        scale: tuple[float, float] = (0.2, 1.0),
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        check_counts(dim=dim, batch_size=batch_size)
        check_range("scale", scale)
        check_noise(noise)
        self.dim, self.batch_size, self.noise, self.scale = dim, batch_size, noise, scale
        self.device, self.dtype, self.is_held_out = device, dtype, is_held_out
        self.model = nn.Linear(dim, 1).to(device, dtype)
        self.loss = functional_loss(self.model, nn.functional.mse_loss)

    def sample(self, generator: Generator) -> SumRegressionTask:
        own = own_generator(generator, self.is_held_out)
        return SumRegressionTask(self, draw_log_uniform(*self.scale, own))


@dataclass(frozen=True)
class SumRegressionTask(NetTask):
    """A task of ``SumRegression``: its inputs have standard deviation ``scale``."""

    family: SumRegression
    scale: float

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family = self.family
        own = own_generator(generator, split == "query")
        inputs = self.scale * torch.randn(
            family.batch_size, family.dim, generator=own, dtype=torch.float32
        )
        noise = family.noise * torch.randn(family.batch_size, 1, generator=own, dtype=torch.float32)
        targets = inputs.sum(1, keepdim=True) + noise
        return inputs.to(family.device, family.dtype), targets.to(family.device, family.dtype)
