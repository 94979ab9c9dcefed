"""A model as a stack of levels: what each holds, sees, and when it moves.

Letters: D width. Source: Behrouz et al. 2025 (arXiv 2512.24695), Definition 2 and figure 2: levels
are ordered by how often they move.
"""

from __future__ import annotations

from typing import NamedTuple, TextIO

from torch import nn

from nested.levels.clock import Clock
from nested.memory.continuum import ContinuumMemory
from nested.memory.linear import LinearMemory
from nested.memory.selfmod import SelfModifyingTitans
from nested.memory.short_texts import told, untaught
from nested.memory.state import count_numbers
from nested.models.attention import Attention
from nested.models.convolution import Convolution
from nested.models.model import SequenceModel
from nested.support.checks import check_counts

COLUMNS = 64  # of the drawing


class Level(NamedTuple):
    """One level: its ``state`` in numbers a sample, or a token if it grows; what it sees; every how
    many tokens it moves, 0 for once a batch; and its parameters."""

    name: str
    state: str
    sees: str
    period: int
    parameters: int


def levels(model: SequenceModel) -> list[Level]:
    """All levels of a model, first to last, and the outer one that learns them."""
    found = []
    for number, block in enumerate(model.blocks, start=1):
        for name in block.parts:
            part = getattr(block, name)
            found += _levels(f"block {number} {name}", part)
    total = _count(model)
    found.append(Level("weights", f"{total:,}", "batches of text", 0, total))
    return found


def describe(
    model: SequenceModel, file: TextIO | None = None, *, text_length: int | None = None
) -> None:
    """Print all levels of ``model``, with state, context flow, clock and number of parameters, and
    draw who moves when; to ``file``, or the screen.

    Given the ``text_length`` of training, in tokens, it names the levels that such texts teach
    nothing. Raises ``ValueError`` for a ``text_length`` under 1."""
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
    idle = untaught(model, text_length) if text_length else {}
    if idle:
        print(f"\n{told(idle, text_length)}", file=file)


def drawn(period: int, span: int, columns: int = COLUMNS) -> str:
    """A line of ``columns`` signs for ``span`` tokens: "|" where a level of this ``period`` moves,
    "." where it waits, and takes part all the same. Raises ``ValueError`` for a period under 1.

    >>> drawn(period=4, span=16, columns=8)
    '.|.|.|.|'
    """
    clock, ends = Clock(period), [round(span * i / columns) for i in range(columns + 1)]
    moves = (any(map(clock.due, range(a + 1, b + 1))) for a, b in zip(ends, ends[1:]))
    return "".join("|" if moved else "." for moved in moves)


def _levels(name: str, part: nn.Module) -> list[Level]:
    """The levels in one part of a block."""
    count, size = _count(part), count_numbers(part.init(1))
    if isinstance(part, ContinuumMemory):
        rows = []
        for i, (level, state) in enumerate(zip(part.levels, part.begin(1)), start=1):
            is_first = i == 1 or part.form == "independent"
            sees = "keys and values of " + ("its input" if is_first else f"level {i - 1}'s flow")
            held, own = f"{count_numbers(state):,}", _count(level)
            rows.append(Level(f"{name}, level {i}", held, sees, level.chunk, own))
        between = count - sum(row.parameters for row in rows)  # gates, or maps of weights
        return rows + [Level(f"{name}, between", "0", "tokens", 1, between)] * (between > 0)
    if isinstance(part, Attention):
        per_token = 2 * part.out.in_features
        return [Level(name, f"{per_token:,} a token", "keys and values, all kept", 1, count)]
    if isinstance(part, Convolution):
        return [Level(name, f"{size:,}", f"the last {len(part.weight)} tokens", 1, count)]
    kind = f"{name}, {type(part).__name__}"
    if isinstance(part, SelfModifyingTitans):
        own, main = 2 * part.dim**2, 1 if part.reads == "now" else part.chunk
        held, sees = 4 * part.dim**2, "keys of tokens, and its own answers to their values"
        return [
            Level(f"{kind}, memory", f"{held:,}", sees, main, own),
            Level(f"{kind}, its rules", f"{size - held:,}", sees, part.chunk, count - own),
        ]
    sees = "keys and values of tokens"
    if not isinstance(part, LinearMemory):
        sees += f", errors as they were when its chunk of {part.chunk} began"
    return [Level(kind, f"{size:,}", sees, 1, count)]


def _clock(period: int) -> str:
    if not period:
        return "moves after every batch"
    return "moves at every token" if period == 1 else f"moves every {period:,} tokens"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
