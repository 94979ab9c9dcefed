"""The curved valley that no single step size fits.

Letters: D dimensions. Source: Rosenbrock 1960, in the form of many dimensions of De Jong 1975.
"""

from __future__ import annotations

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
    draw_log_uniform,
    own_generator,
)


def rosenbrock_loss(params: Params, batch: Batch) -> Tensor:
    """``mean_i b (z_{i+1} - z_i^2)^2 + (1 - z_i)^2``, (), for ``z = w - c``, ``params`` {"w": (D,)}
    and a batch (b (), c (D,)). Raises ``RuntimeError`` where their dimensions differ."""
    steepness, centre = batch
    z = params["w"] - centre
    valley = steepness * (z[1:] - z[:-1] ** 2) ** 2
    return (valley + (1 - z[:-1]) ** 2).mean()


class Rosenbrock(TwoSided):
    """Find the bottom of Rosenbrock's valley in D = ``dim`` dimensions.

    Each task draws where the valley lies and how steep its walls are (log-uniform in
    ``steepness``; 100 is Rosenbrock's). Batches are (steepness (), centre (D,)); in train batches
    the centre is seen with noise of standard deviation ``noise``, in query batches as it is. Raises
    ``ValueError`` for a ``dim`` under 2, a negative noise or an empty range.
    """

    def __init__(
        self,
        dim: int = 4,
        steepness: tuple[float, float] = (10.0, 100.0),
        noise: float = 0.01,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        check_counts(dim=dim)
        if dim < 2:
            raise ValueError("the valley needs a dim of 2 or more, but got 1")
        check_range("steepness", steepness)
        check_noise(noise)
        self.dim, self.steepness, self.noise = dim, steepness, noise
        self.device, self.dtype, self.is_held_out = device, dtype, is_held_out

    def sample(self, generator: Generator) -> RosenbrockTask:
        own = own_generator(generator, self.is_held_out)
        steepness = draw_log_uniform(*self.steepness, own)
        return RosenbrockTask(
            self, steepness, torch.randn(self.dim, generator=own, dtype=torch.float32)
        )


@dataclass(frozen=True)
class RosenbrockTask(Task):
    """A task of ``Rosenbrock``: the valley's ``steepness`` and its ``centre`` (D,)."""

    family: Rosenbrock
    steepness: float
    centre: Tensor

    @property
    def loss(self):
        return rosenbrock_loss

    def init(self, generator: Generator) -> Params:
        start = self.centre + 0.5 * torch.randn(
            self.family.dim, generator=generator, dtype=torch.float32
        )
        return {"w": start.to(self.family.device, self.family.dtype)}

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family = self.family
        noise = family.noise * torch.randn(family.dim, generator=generator, dtype=torch.float32)
        centre = self.centre + noise if split == "train" else self.centre
        steepness = torch.tensor(self.steepness, dtype=torch.float32)
        return tuple(part.to(family.device, family.dtype) for part in (steepness, centre))
