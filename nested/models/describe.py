"""Print a model as a stack of levels: what each keeps and sees, and when it moves.

Source: Behrouz et al. 2025 (arXiv 2512.24695), Definition 2 and figure 2: levels are ordered by how
often they move.
"""

from __future__ import annotations

from typing import TextIO

from nested.levels.clock import Clock
from nested.memory.level import Level, count_parameters
from nested.memory.short_texts import advice, never_taught
from nested.models.model import SequenceModel
from nested.support.checks import check_counts

COLUMNS = 64  # width of the drawing


def levels(model: SequenceModel) -> list[Level]:
    """List all levels of ``model`` from first to last, then the outer level that trains them."""
    rows = []
    for number, block in enumerate(model.blocks, start=1):
        for name in block.parts:
            for row in getattr(block, name).describe():
                full_name = ", ".join(filter(None, (f"block {number} {name}", row.name)))
                rows.append(row._replace(name=full_name))
    total = count_parameters(model)
    rows.append(Level("weights", f"{total:,}", "batches of text", 0, total))
    return rows


def describe(
    model: SequenceModel, file: TextIO | None = None, *, text_length: int | None = None
) -> None:
    """Print each level of ``model`` with its state, parameters, clock and context flow, and draw
    when it moves.

    Prints to ``file``, or to the screen. With ``text_length``, the length of training texts in
    tokens, it also names the levels that such texts teach nothing. Raises ``ValueError`` for a
    ``text_length`` under 1.
    """
    if text_length is not None:
        check_counts(text_length=text_length)
    rows = levels(model)
    width = max(len(level.name) for level in rows)
    print(f"{'level':<{width}}  {'numbers a sample':>17}  {'parameters':>10}  clock", file=file)
    for level in rows:
        line = f"{level.name:<{width}}  {level.state:>17}  {level.parameters:>10,}"
        print(f"{line}  {_clock(level.period)}; sees {level.sees}", file=file)
    inner = [level for level in rows if level.period]
    span = max([level.period for level in inner] + [COLUMNS])
    print(f"\nwho moves when, in {span:,} tokens from left to right:", file=file)
    for level in inner:
        print(f"{level.name:<{width}}  {drawn(level.period, span)}", file=file)
    print(f"{rows[-1].name:<{width}}  {'.' * COLUMNS}  after the batch", file=file)
    clocks = {level.name: level.period for level in inner}
    idle = never_taught(clocks, text_length) if text_length else {}
    if idle:
        print(f"\n{advice(idle, text_length)}", file=file)


def drawn(period: int, span: int, columns: int = COLUMNS) -> str:
    """Draw ``span`` tokens as ``columns`` signs: "|" where a level of this ``period`` moves.

    Elsewhere the sign is ".": the level reads and does not move. Raises ``ValueError`` for a period
    under 1.

    >>> drawn(period=4, span=16, columns=8)
    '.|.|.|.|'
    """
    clock, ends = Clock(period), [round(span * i / columns) for i in range(columns + 1)]
    is_due = (any(map(clock.due, range(a + 1, b + 1))) for a, b in zip(ends, ends[1:]))
    return "".join("|" if due else "." for due in is_due)


def _clock(period: int) -> str:
    if not period:
        return "moves after every batch"
    return "moves at every token" if period == 1 else f"moves every {period:,} tokens"
