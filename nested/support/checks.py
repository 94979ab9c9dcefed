"""What arguments everywhere are checked for.

Source: ours.
"""

from __future__ import annotations


def check_counts(**counts: int) -> None:
    """Raise ``ValueError`` unless every argument is a whole number from 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is a whole number from 1, but got {value!r}")
