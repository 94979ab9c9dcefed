"""Quadratic bowls of random curvature: the inner problem whose every step can be done by hand.

Source: the quadratics of Andrychowicz et al. 2016 (arXiv 1606.04474), section 3.1, with set
eigenvalues. Letters: D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nested.levels.forward import Batch, Params
from nested.support.checks import check_counts
from nested.tasks.family import (
    Task,
    TwoSided,
    check_noise,
    check_range,
    check_split,
    own_generator,
)


def quadratic_loss(params: Params, batch: Batch) -> Tensor:
    """``1/2 (w - c)^T A (w - c)``, (), for ``params`` {"w": (D,)} and a batch (A (D, D), c (D,)).
    Raises ``RuntimeError`` where their dimensions differ."""
    curvature, centre = batch
    away = params["w"] - centre
    return 0.5 * away @ curvature @ away


class Quadratics(TwoSided):
    """Find the bottom of a bowl in D = ``dim`` dimensions from noisy sightings of it.

    Each task draws a rotation, eigenvalues (log-uniform in ``curvature``; with a ``condition``
    number, only the largest is drawn, and the others fall evenly, in their logarithm, to the
    largest over ``condition``) and a centre. Batches are
    (curvature (D, D), centre (D,)); in train batches the centre is seen with noise of standard
    deviation ``noise``, in query batches as it is (without noise the two are the same). Raises
    ``ValueError`` for a ``dim`` under 1, a negative noise, an empty range or a condition under 1.
    """

    def __init__(
        self,
        dim: int = 8,
        curvature: tuple[float, float] = (0.03, 3.0),
        noise: float = 0.1,
        condition: float | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        check_counts(dim=dim)
        check_range("curvature", curvature)
        check_noise(noise)
        if condition is not None and not 1 <= condition < math.inf:
            raise ValueError(f"condition is a finite number from 1, but got {condition}")
        self.dim, self.curvature, self.noise, self.condition = dim, curvature, noise, condition
        self.device, self.dtype, self.is_held_out = device, dtype, is_held_out

    def sample(self, generator: Generator) -> QuadraticTask:
        own = own_generator(generator, self.is_held_out)
        low, high = self.curvature
        eigenvalues = low * (high / low) ** torch.rand(self.dim, generator=own, dtype=torch.float32)
        if self.condition is not None:
            eigenvalues = eigenvalues[0] * self.condition ** -torch.linspace(
                0, 1, self.dim, dtype=torch.float32
            )
        rotation, _ = torch.linalg.qr(
            torch.randn(self.dim, self.dim, generator=own, dtype=torch.float32)
        )
        curvature = rotation @ torch.diag(eigenvalues) @ rotation.T
        return QuadraticTask(
            self, curvature, torch.randn(self.dim, generator=own, dtype=torch.float32)
        )


@dataclass(frozen=True)
class QuadraticTask(Task):
    """A task of ``Quadratics``: its ``curvature`` (D, D) and its ``centre`` (D,)."""

    family: Quadratics
    curvature: Tensor
    centre: Tensor

    @property
    def loss(self):
        return quadratic_loss

    def init(self, generator: Generator) -> Params:
        start = torch.randn(self.family.dim, generator=generator, dtype=torch.float32)
        return {"w": start.to(self.family.device, self.family.dtype)}

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family = self.family
        noise = family.noise * torch.randn(family.dim, generator=generator, dtype=torch.float32)
        centre = self.centre + noise if split == "train" else self.centre
        return tuple(part.to(family.device, family.dtype) for part in (self.curvature, centre))
