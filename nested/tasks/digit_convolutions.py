"""The digits of ``nested.tasks.digits``, classified by a small convolutional net.

Source: the data as there; the net is a small form of LeNet (LeCun et al. 1998).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from nested.tasks.digits import CLASSES, Digits


class DigitConvolutions(Digits):
    """``Digits`` with a net of two convolutions of 3x3 pixels and a linear layer.

    The first convolution has ``channels``, the second twice as many. ``settings`` are those of
    ``Digits`` without ``hidden`` and ``depth``, and so are the errors.
    """

    def __init__(self, channels: int = 8, **settings: Any) -> None:
        super().__init__(hidden=channels, **settings)
        net = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * 16, CLASSES),
        )
        self.set_net(net, nn.functional.cross_entropy)
