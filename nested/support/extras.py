"""Libraries that only a part of the room needs: imported where used, with one line when missing.

Source: the extras of ``pyproject.toml``.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def needed(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the ``extra`` of this package installs.

    Raises ``ValueError``, with the command that installs it, if it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"this needs the library {module}: install it with pip install -e .[{extra}]"
        ) from error
