"""The nets that all strategies share: a small MLP, and a small net of convolutions.

Letters: B examples, C classes. Source: the MLPs and small convolutions of the field's benchmarks.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nested.support.checks import check_counts

KINDS = ("mlp", "conv")


def build_net(
    shape: tuple[int, ...], classes: int, kind: str = "mlp", width: int = 64, seed: int = 0
) -> nn.Sequential:
    """Build a net for examples of ``shape``, with C outputs. Its parts are called "slow", "medium",
    "fast" and "head", from the input to the output.

    "mlp" has two hidden layers of ``width`` units. "conv" has three convolutions, each of which
    halves the image. It takes images (channels, height, width) or (height, width). Raises
    ``ValueError`` for another kind, and for convolutions on examples that are no images."""
    check_counts(width=width, classes=classes)
    if kind not in KINDS:
        raise ValueError(f"a net is of kind {' or '.join(KINDS)}, but got {kind!r}")
    if kind == "conv" and len(shape) not in (2, 3):
        raise ValueError(f"convolutions take images, but these examples are {shape}: take mlp")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = _mlp(shape, width) if kind == "mlp" else _conv(shape, width)
        body = nn.Sequential(OrderedDict(parts))
        features = body(torch.zeros(1, *shape)).shape[1]
        body.add_module("head", nn.Linear(features, classes))
        return body


class Checkpointed(nn.Sequential):
    """Turns examples (B, ...) into logits (B, C). It stores what goes into each part, and computes
    the rest again for the gradients, which needs less memory and more time.

    Source: Chen et al. 2016 (arXiv 1604.06174)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, C) of x (B, ...)."""
        for part in self:
            x = checkpoint(part, x, use_reentrant=False) if self.training else part(x)
        return x


def _mlp(shape: tuple[int, ...], width: int) -> dict[str, nn.Module]:
    first = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU())
    return {"slow": first, "fast": nn.Sequential(nn.Linear(width, width), nn.ReLU())}


def _conv(shape: tuple[int, ...], width: int) -> dict[str, nn.Module]:
    channels = 1 if len(shape) == 2 else shape[0]
    start = [nn.Unflatten(1, (1, shape[0]))] if len(shape) == 2 else []
    parts = {}
    for name, before in zip(("slow", "medium", "fast"), (channels, width, width)):
        layers = [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.ReLU()]
        parts[name] = nn.Sequential(*start, *layers)
        start = []
    parts["fast"].append(nn.Flatten())
    return parts
