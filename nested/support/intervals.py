"""How far a mean may be from the truth.

Letters: N values. Source: Student's t; Abramowitz and Stegun 1964, 26.7.5, for many values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # by degrees of freedom


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return (mean, half the width of its 95 % interval) of ``values`` (N,) from Student's t.

    One value has an infinite interval."""
    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return mean, math.inf
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    factor = T_95[count - 2] if count - 2 < len(T_95) else _student(count - 1)
    return mean, factor * deviation / math.sqrt(count)


def _student(freedom: int) -> float:
    """The 97.5 % point of Student's t: three terms of the expansion around the normal one."""
    z, n = 1.959964, freedom
    first, second = (z**3 + z) / (4 * n), (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    return z + first + second + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
