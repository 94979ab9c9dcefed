"""What a training shows: a live board on a terminal, one line for each measure elsewhere.

Source: the library ``rich``.
"""

from __future__ import annotations

import math
import sys
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
        self.title, self.bits, self.notes, self.last = title, [], [], {}
        self.console = Console(file=out or sys.stdout)
        self.live = Live(console=self.console, refresh_per_second=4)

    def __enter__(self) -> Dashboard:
        if self.console.is_interactive:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def show(self, record: dict[str, Any]) -> None:
        """Show one more record. One without "bits" only moves the live board."""
        is_note, is_measure = "back_to" in record, "bits" in record
        if is_note:
            note = f"step {record['step']}: loss {record['loss']:.3g}, back to {record['back_to']}"
            self.notes.append(note)
        else:
            self.last |= record
            self.bits += [record["bits"]] if is_measure else []
        if self.console.is_interactive:
            self.live.update(self._board())
        elif is_note or is_measure:
            line = note if is_note else line_of(record)
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _board(self) -> Group:
        last, table, rows = self.last, Table.grid(padding=(0, 2)), {}
        if last:
            training = f"{last['mean_loss'] / math.log(2):.3f} bits a token, running mean"
            rows = {
                "step": f"{last['step']:,} of {last['total']:,}, {time_left(last)} left",
                "training": training,
                "speed": f"{last['tokens_per_second']:,.0f} tokens a second",
                "memory": f"{last['memory_mib']:,.0f} MiB",
            }
        if self.bits:
            rows["held out"] = f"{self.bits[-1]:.3f} bits a byte  {curve(self.bits)}"
        for name, share in last.get("moved", {}).items():
            rows[f"moved: {name}"] = f"{share:6.1%}  {'█' * round(20 * min(share, 1))}"
        for name, value in rows.items():
            table.add_row(name, Line(value))
        sample = Panel(Line(visible(last.get("sample", ""))), title="it writes now")
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
