"""What arguments everywhere are checked for.

Source: ours.
"""

from __future__ import annotations

import math
from numbers import Real


def check_counts(**counts: int) -> None:
    """Raise ``ValueError`` unless every argument is a whole number from 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is a whole number from 1, but got {value!r}")


def check_seed(seed: int) -> None:
    """Raise ``ValueError`` unless ``seed`` is one that PyTorch takes."""
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"a seed is a whole number from 0 to 2^63 - 1, but got {seed!r}")


def check_numbers(**numbers: float) -> None:
    """Raise ``ValueError`` unless all are finite numbers from 0."""
    for name, value in numbers.items():
        if not _is_real(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is a finite number from 0, but got {value!r}")


def check_share(**shares: float) -> None:
    """Raise ``ValueError`` unless all are numbers from 0 to 1."""
    for name, value in shares.items():
        if not _is_real(value) or not 0 <= value <= 1:
            raise ValueError(f"{name} is a share from 0 to 1, but got {value!r}")


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
