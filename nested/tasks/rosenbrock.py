"""Rosenbrock's curved valley, which no single step size fits.

Letters: D dimensions. Source: Rosenbrock 1960, in the form of many dimensions of De Jong 1975.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from nested.levels.forward import Batch, LossFn, Params
from nested.support.checks import check_counts
from nested.tasks.family import (
    Task,
    TwoSided,
    check_noise,
    check_range,
    check_split,
    draw_log_uniform,
    draw_normal,
    own_generator,
)


def rosenbrock_loss(params: Params, batch: Batch) -> Tensor:
    """Compute ``mean_i b (z_{i+1} - z_i^2)^2 + (1 - z_i)^2``, (), where ``z = w - c``.

    ``params`` are {"w": (D,)}, and a batch is (b (), c (D,)). Raises ``RuntimeError`` if their
    dimensions differ.
    """
    steepness, centre = batch
    z = params["w"] - centre
    valley = steepness * (z[1:] - z[:-1] ** 2) ** 2
    return (valley + (1 - z[:-1]) ** 2).mean()


class Rosenbrock(TwoSided):
    """Find the bottom of Rosenbrock's valley in D = ``dim`` dimensions.

    Each task draws the place of the valley and the steepness of its walls, log-uniform in
    ``steepness``; Rosenbrock's is 100. Batches are (steepness (), centre (D,)). Train batches add
    noise of standard deviation ``noise`` to the centre, query batches do not. ``settings``: see
    ``TwoSided``. Raises ``ValueError`` for a ``dim`` under 2, a negative noise or an empty range.
    """

    def __init__(
        self,
        dim: int = 4,
        steepness: tuple[float, float] = (10.0, 100.0),
        noise: float = 0.01,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_counts(dim=dim)
        if dim < 2:
            raise ValueError("dim is a whole number from 2, but got 1")
        check_range("steepness", steepness)
        check_noise(noise)
        self.dim, self.steepness, self.noise = dim, steepness, noise

    def sample(self, generator: Generator) -> RosenbrockTask:
        generator = own_generator(generator, self.is_held_out)
        steepness = draw_log_uniform(*self.steepness, generator)
        return RosenbrockTask(self, steepness, draw_normal((self.dim,), generator))


@dataclass(frozen=True)
class RosenbrockTask(Task):
    """A task of ``Rosenbrock``: the valley's ``steepness`` and its ``centre`` (D,)."""

    family: Rosenbrock
    steepness: float
    centre: Tensor

    @property
    def loss(self) -> LossFn:
        return rosenbrock_loss

    def init(self, generator: Generator) -> Params:
        start = self.centre + 0.5 * draw_normal((self.family.dim,), generator)
        (start,) = self.family.place(start)
        return {"w": start}

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family = self.family
        noise = family.noise * draw_normal((family.dim,), generator)
        centre = self.centre + noise if split == "train" else self.centre
        steepness = torch.tensor(self.steepness, dtype=torch.float32)
        return family.place(steepness, centre)
