"""Which of the package's own answers does a student's function run?

It is asked in the student's process, of a file that hides nothing: a wrapper around a built-in is
no answer of one's own, whatever it does to what comes out. Source: ``sys.setprofile``.
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
    """Call ``function`` and return the modules in ``folders`` of the package ("tasks", "rules")
    whose functions called one of ``names`` ran meanwhile. Raises what ``function`` raises."""
    places = tuple(str(PACKAGE / folder) for folder in folders)
    found = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name in names and code.co_filename.startswith(places):
            found.add(Path(code.co_filename).stem)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return sorted(found)
