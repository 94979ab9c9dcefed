"""Show bytes as they come: whole characters only, and nothing of a stop string.

Source: the incremental decoder of Python's ``codecs``.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Stream:
    """Turns bytes into text that can be shown at once.

    A character of several bytes comes whole. A byte that is no UTF-8 becomes a replacement
    character, as soon as it is known to be none. What could be the start of a string of ``stop`` is
    held back; once one is complete, ``is_stopped`` is true and nothing after it is shown.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop, self._held, self.is_stopped = tuple(stop), "", False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """Take more bytes, and return the text that can be shown now."""
        return self._shown(self._decoder.decode(data), 0)

    def end(self) -> str:
        """Return what was held back, after the last byte."""
        return self._shown(self._decoder.decode(b"", final=True), None)

    def _shown(self, text: str, hold: int | None) -> str:
        if self.is_stopped:
            return ""
        held = self._held + text
        places = [at for at in map(held.find, self._stop) if at >= 0]
        if places:
            self.is_stopped, self._held = True, ""
            return held[: min(places)]
        keep = 0 if hold is None else self._start_of_stop(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def _start_of_stop(self, text: str) -> int:
        """The length of the longest end of ``text`` that a stop string begins with."""
        longest = max(map(len, self._stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0
