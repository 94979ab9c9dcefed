"""Find the built-in rules or tasks of the package that a student's function calls.

A wrapper around a built-in is no answer, even if it changes the result. The question runs in the
student's process, and it assumes a file that does not hide its calls. Source: ``sys.setprofile``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

import nested

PACKAGE = Path(nested.__file__).parent


def borrowed(
    function: Callable[[], Any], folders: Collection[str], names: Collection[str]
) -> list[str]:
    """Call ``function``, and return the modules of the package that it used.

    Only functions with one of ``names`` count, in modules of ``folders`` ("tasks", "rules").
    Exceptions of ``function`` pass through."""
    places = tuple(str(PACKAGE / folder) for folder in folders)
    modules = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name in names and code.co_filename.startswith(places):
            modules.add(Path(code.co_filename).stem)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return sorted(modules)
