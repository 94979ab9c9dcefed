"""Progress of a long job, with the time left: a bar on a terminal, rare lines elsewhere.

And what such lines are made of.
"""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn
from rich.progress import Progress as Bar
from rich.progress import TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40  # signs of a curve
COLUMNS = (
    BarColumn(bar_width=10),
    MofNCompleteColumn(),
    TimeRemainingColumn(compact=True),
    TextColumn("{task.fields[text]}", markup=False),
)


class Progress:
    """Show progress over ``total`` steps while a ``with`` block runs.

    On a terminal a bar of the library ``rich`` shows the steps made, the time left and a text.
    Elsewhere a plain line appears every 10 seconds and after the last step, such as
    ``175/350, 0:12 left  loss 0.42``.
    """

    def __init__(self, total: int, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        console = Console(file=self.out)
        self.live = self.out.isatty() and console.is_interactive  # not a log, not a dumb terminal
        self.bar = Bar(*COLUMNS, console=console, disable=not self.live, refresh_per_second=5)
        self.bar.add_task("", total=total, text="")
        self.task = self.bar.tasks[0]
        self.line_at = time.monotonic()

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()  # leaves the bar where it is, and the cursor on a line of its own

    def show(self, step: int, text: str) -> None:
        """Show that ``step`` steps are done, and ``text``."""
        self.bar.update(self.task.id, completed=step, text=text)
        now, is_last = time.monotonic(), step >= self.task.total
        if self.live or not is_last and now < self.line_at + SECONDS_BETWEEN_LINES:
            return
        self.line_at = now
        seconds = self.task.time_remaining
        left = "" if is_last or seconds is None else f", {minutes(seconds)} left"
        print(f"{step}/{self.task.total:g}{left}  {text}", file=self.out, flush=True)


def minutes(seconds: float) -> str:
    """Write a time as minutes:seconds."""
    whole, rest = divmod(round(seconds), 60)
    return f"{whole}:{rest:02}"


def curve(values: list[float]) -> str:
    """Draw the last ``values`` as a row of bars, from the lowest to the highest."""
    values = [value for value in values[-WIDTH:] if math.isfinite(value)]
    low, high = min(values, default=0), max(values, default=0)
    step = (high - low) / (len(BARS) - 1) or 1
    return "".join(BARS[round((value - low) / step)] for value in values)


def visible(text: str) -> str:
    """Replace what a terminal cannot show, or would obey, by a dot."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "·" for sign in text)
