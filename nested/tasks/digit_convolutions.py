"""The digits of ``nested.tasks.digits``, read by a small convolutional net.

Source: as there; the net is LeNet's plan (LeCun et al. 1998), made small.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from nested.levels.forward import functional_loss
from nested.tasks.digits import CLASSES, Digits


class DigitConvolutions(Digits):
    """``Digits`` with two convolutions of 3x3 pixels, ``channels`` and twice as many, and a linear
    layer. Takes what ``Digits`` takes but its ``hidden`` and ``depth``, and raises what it raises.
    """

    def __init__(self, channels: int = 8, **settings: Any) -> None:
        super().__init__(hidden=channels, **settings)
        self.model = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * 16, CLASSES),
        ).to(self.device, self.dtype)
        self.loss = functional_loss(self.model, nn.functional.cross_entropy)
