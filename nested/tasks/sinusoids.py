"""Regression: fit a sine wave of unknown amplitude, frequency and phase.

Source: the regression of Finn et al. 2017 (arXiv 1703.03400), section 5.1, with a frequency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, nn

from nested.levels.forward import Batch
from nested.support.checks import check_counts
from nested.tasks.family import (
    NetTask,
    TwoSided,
    check_noise,
    check_split,
    draw_log_uniform,
    draw_normal,
    draw_uniform,
    own_generator,
)

LARGEST_INPUT = 5.0  # inputs are in [-5, 5]


class Sinusoids(TwoSided):
    """Fit ``y = a sin(f x + p)`` with a net of two layers of ``hidden`` tanh units.

    Letters: B ``batch_size``. Each task draws its amplitude a (log-uniform, 0.3 to 3), its
    frequency f (log-uniform, 0.3 to 1.2) and its phase p (uniform). Batches are (x (B, 1), y
    (B, 1)). Noise of standard deviation ``noise`` times a is added to y. The loss is the mean
    squared error. Every batch is drawn anew, train and query batches from different seeds.
    ``settings``: see ``TwoSided``. Raises ``ValueError`` for sizes under 1 or a negative noise.
    """

    def __init__(
        self,
        hidden: int = 32,
        batch_size: int = 32,
        noise: float = 0.05,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_counts(hidden=hidden, batch_size=batch_size)
        check_noise(noise)
        self.hidden, self.batch_size, self.noise = hidden, batch_size, noise
        layers = nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        self.set_net(nn.Sequential(*layers, nn.Linear(hidden, 1)), nn.functional.mse_loss)

    def sample(self, generator: Generator) -> SinusoidTask:
        generator = own_generator(generator, self.is_held_out)
        amplitude = draw_log_uniform(0.3, 3.0, generator)
        frequency = draw_log_uniform(0.3, 1.2, generator)
        phase = draw_uniform((), generator).item()
        return SinusoidTask(self, amplitude, frequency, phase)


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
        generator = own_generator(generator, family.is_held_out)
        generator = own_generator(generator, split == "query")
        x = LARGEST_INPUT * (2 * draw_uniform((family.batch_size, 1), generator) - 1)
        y = torch.sin(self.frequency * x + 2 * math.pi * self.phase)
        y = self.amplitude * (y + family.noise * draw_normal(y.shape, generator))
        return family.place(x, y)
