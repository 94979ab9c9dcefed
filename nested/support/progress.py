"""One line that says how far a long job is: redrawn in place on a terminal, else printed rarely."""

from __future__ import annotations

import sys
import time
from typing import TextIO

SECONDS_TERMINAL, SECONDS_LOG = 0.2, 10.0
WIDTH = 24


class Progress:
    """A progress bar over ``total`` steps, e.g. ``[#####.....] 175/350  loss 0.42``, redrawn every
    0.2 seconds on a terminal and every 10 elsewhere. ``total`` is at least 1, else
    ``ZeroDivisionError`` is raised."""

    def __init__(self, total: int, out: TextIO | None = None) -> None:
        self.total = total
        self.out = out or sys.stdout
        self.live = self.out.isatty()
        self.shown_at = time.monotonic()

    def show(self, step: int, text: str) -> None:
        """Show that ``step`` of ``total`` is done; quietly skipped when shown a moment ago."""
        now = time.monotonic()
        wait = SECONDS_TERMINAL if self.live else SECONDS_LOG
        if step < self.total and now < self.shown_at + wait:
            return
        self.shown_at = now
        done = WIDTH * step // self.total
        line = f"[{'#' * done}{'.' * (WIDTH - done)}] {step}/{self.total}  {text}"
        ending = "\n" if step >= self.total or not self.live else ""
        print(f"\r\033[K{line}" if self.live else line, end=ending, file=self.out, flush=True)
