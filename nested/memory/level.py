"""One row of ``describe(model)``: a memory or a layer describes each of its levels by one.

Source: Behrouz et al. 2025 (arXiv 2512.24695), Definition 2: a level has a state, a context flow
and a clock.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Level(NamedTuple):
    """One level of a memory or model.

    ``state`` says how many numbers it keeps per sample, in words: "1,024" or "32 a token".
    ``sees`` names its context flow. ``period`` is the number of tokens between two updates, and 0
    for one update after each batch. ``parameters`` counts what the outer training learns.
    """

    name: str
    state: str
    sees: str
    period: int
    parameters: int


def count_parameters(module: nn.Module) -> int:
    """Count the numbers in all parameters of ``module``."""
    return sum(parameter.numel() for parameter in module.parameters())
