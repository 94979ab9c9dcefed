"""Regression: fit a sine wave of unknown amplitude, frequency and phase.

Source: the regression of Finn et al. 2017 (arXiv 1703.03400), section 5.1, with a frequency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, nn

from nested.levels.forward import Batch, functional_loss
from nested.support.checks import check_counts
from nested.tasks.family import (
    NetTask,
    TwoSided,
    check_noise,
    check_split,
    draw_log_uniform,
    own_generator,
)

REACH = 5.0  # inputs are in [-5, 5]


class Sinusoids(TwoSided):
    """A net, 1 - ``hidden`` - ``hidden`` - 1 with tanh, fits ``y = a sin(f x + p)``, by its mean
    squared error.

    Letters: B ``batch_size``. Each task draws the amplitude a (log-uniform, 0.3 to 3), frequency f
    (log-uniform, 0.3 to 1.2) and phase p. Batches are (x (B, 1), y (B, 1) with noise of standard
    deviation ``noise`` times a), drawn anew each time, train and query from other seeds. Raises
    ``ValueError`` for sizes under 1 or a negative noise.
    """

    def __init__(
        self,
        hidden: int = 32,
        batch_size: int = 32,
        noise: float = 0.05,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        check_counts(hidden=hidden, batch_size=batch_size)
        check_noise(noise)
        self.hidden, self.batch_size, self.noise = hidden, batch_size, noise
        self.device, self.dtype, self.is_held_out = device, dtype, is_held_out
        layers = nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        self.model = nn.Sequential(*layers, nn.Linear(hidden, 1)).to(device, dtype)
        self.loss = functional_loss(self.model, nn.functional.mse_loss)

    def sample(self, generator: Generator) -> SinusoidTask:
        own = own_generator(generator, self.is_held_out)
        amplitude, frequency = draw_log_uniform(0.3, 3.0, own), draw_log_uniform(0.3, 1.2, own)
        return SinusoidTask(
            self, amplitude, frequency, torch.rand((), generator=own, dtype=torch.float32).item()
        )


@dataclass(frozen=True)
class SinusoidTask(NetTask):
    """A task of ``Sinusoids``: ``amplitude``, ``frequency`` (radians per unit of x), and ``phase``
    (turns)."""

    family: Sinusoids
    amplitude: float
    frequency: float
    phase: float

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family = self.family
        own = own_generator(own_generator(generator, family.is_held_out), split == "query")
        x = REACH * (2 * torch.rand(family.batch_size, 1, generator=own, dtype=torch.float32) - 1)
        y = torch.sin(self.frequency * x + 2 * math.pi * self.phase)
        y = self.amplitude * (
            y + family.noise * torch.randn(y.shape, generator=own, dtype=torch.float32)
        )
        return x.to(family.device, family.dtype), y.to(family.device, family.dtype)
