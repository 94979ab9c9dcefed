"""What a training shows: a live board on a terminal, one line for each measure elsewhere.

Source: the library ``rich``.
"""

from __future__ import annotations

import math
import sys
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text as Line

from nested.support.progress import curve, minutes, visible


class Dashboard:
    """Shows the records of ``train`` while a ``with`` block runs; pass its ``show`` on."""

    def __init__(self, title: str, out: TextIO | None = None) -> None:
        self.title, self.records, self.notes = title, [], []
        self.console = Console(file=out or sys.stdout)
        self.live = Live(console=self.console, refresh_per_second=4)

    def __enter__(self) -> Dashboard:
        if self.console.is_interactive:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def show(self, record: dict[str, Any]) -> None:
        """Show one more record."""
        if "back_to" in record:
            note = f"step {record['step']}: loss {record['loss']:.3g}, back to {record['back_to']}"
            self.notes.append(note)
        else:
            self.records.append(record)
        if self.console.is_interactive:
            self.live.update(self._board())
        else:
            line = note if "back_to" in record else line_of(record)
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _board(self) -> Group | Panel:
        if not self.records:
            return Panel("\n".join(self.notes), title=self.title)
        last, table = self.records[-1], Table.grid(padding=(0, 2))
        heights = curve([record["bits"] for record in self.records])
        rows = {
            "step": f"{last['step']:,} of {last['total']:,}, {time_left(last)} left",
            "held out": f"{last['bits']:.3f} bits a byte  {heights}",
            "training": f"{last['mean_loss'] / math.log(2):.3f} bits a token, running mean",
            "speed": f"{last['tokens_per_second']:,.0f} tokens a second",
            "memory": f"{last['memory_mib']:,.0f} MiB",
        }
        for name, share in last["moved"].items():
            rows[f"moved: {name}"] = f"{share:6.1%}  {'█' * round(20 * min(share, 1))}"
        for name, value in rows.items():
            table.add_row(name, Line(value))
        sample = Panel(Line(visible(last["sample"])), title="it writes now")
        return Group(Panel(table, title=self.title), sample, *map(Line, self.notes[-3:]))


def line_of(record: dict[str, Any]) -> str:
    """Write a record as one line."""
    return (
        f"{record['step']:,}/{record['total']:,}, {time_left(record)} left  held out"
        f" {record['bits']:.3f} bits a byte, training {record['mean_loss'] / math.log(2):.3f},"
        f" {record['tokens_per_second']:,.0f} tokens/s, {record['memory_mib']:,.0f} MiB"
    )


def time_left(record: dict[str, Any]) -> str:
    """Say how long the remaining steps will take, by those made, as minutes:seconds."""
    steps_left = record["total"] - record["step"]
    return minutes(record["seconds"] / max(1, record["step"]) * steps_left)
