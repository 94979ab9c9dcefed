"""Quadratic bowls of random curvature: an inner problem whose steps can be computed by hand.

Source: the quadratics of Andrychowicz et al. 2016 (arXiv 1606.04474), section 3.1, with
chosen eigenvalues. Letters: D dimensions.
"""

from __future__ import annotations

import math
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
    draw_normal,
    draw_uniform,
    own_generator,
)


def quadratic_loss(params: Params, batch: Batch) -> Tensor:
    """Compute ``1/2 (w - c)^T A (w - c)``, (), for ``params`` {"w": (D,)} and a batch (A (D, D),
    c (D,)). Raises ``RuntimeError`` if their dimensions differ."""
    curvature, centre = batch
    offset = params["w"] - centre
    return 0.5 * offset @ curvature @ offset


class Quadratics(TwoSided):
    """Find the bottom of a bowl in D = ``dim`` dimensions from noisy measurements of it.

    Each task draws a rotation, a centre, and eigenvalues, log-uniform in ``curvature``. With a
    ``condition`` number only the largest eigenvalue is drawn; the others decrease to the largest
    divided by ``condition``, in even steps of their logarithm. Batches are (curvature (D, D),
    centre (D,)). Train batches add noise of standard deviation ``noise`` to the centre, query
    batches do not; without noise the two are the same. ``settings``: see ``TwoSided``. Raises
    ``ValueError`` for a ``dim`` under 1, a negative noise, an empty range or a condition under 1.
    """

    def __init__(
        self,
        dim: int = 8,
        curvature: tuple[float, float] = (0.03, 3.0),
        noise: float = 0.1,
        condition: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_counts(dim=dim)
        check_range("curvature", curvature)
        check_noise(noise)
        if condition is not None and not 1 <= condition < math.inf:
            raise ValueError(f"condition is a finite number from 1, but got {condition}")
        self.dim, self.curvature, self.noise, self.condition = dim, curvature, noise, condition

    def sample(self, generator: Generator) -> QuadraticTask:
        generator = own_generator(generator, self.is_held_out)
        low, high = self.curvature
        eigenvalues = low * (high / low) ** draw_uniform((self.dim,), generator)
        if self.condition is not None:
            eigenvalues = eigenvalues[0] * self.condition ** -torch.linspace(
                0, 1, self.dim, dtype=torch.float32
            )
        rotation, _ = torch.linalg.qr(draw_normal((self.dim, self.dim), generator))
        curvature = rotation @ torch.diag(eigenvalues) @ rotation.T
        return QuadraticTask(self, curvature, draw_normal((self.dim,), generator))


@dataclass(frozen=True)
class QuadraticTask(Task):
    """A task of ``Quadratics``: its ``curvature`` (D, D) and its ``centre`` (D,)."""

    family: Quadratics
    curvature: Tensor
    centre: Tensor

    @property
    def loss(self) -> LossFn:
        return quadratic_loss

    def init(self, generator: Generator) -> Params:
        (start,) = self.family.place(draw_normal((self.family.dim,), generator))
        return {"w": start}

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family = self.family
        noise = family.noise * draw_normal((family.dim,), generator)
        centre = self.centre + noise if split == "train" else self.centre
        return family.place(self.curvature, centre)
