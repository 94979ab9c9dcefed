"""Make a table of a class: points by slot, means, and files that are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nested.homework.copies import Alike
from nested.homework.grade import SlotReport, Submission, as_number

NOT_ATTEMPTED, MISSING = "-", "?"


def as_class(submissions: Sequence[Submission], alike: Sequence[Alike]) -> str:
    """Make the table as text.

    It has a row for each submission and a column for each slot. Below are the means over all
    submissions, the means over those that attempted the slot, and the possible points. The last
    lines name the students whose files are alike. Raises ``ValueError`` for no submissions."""
    if not submissions:
        raise ValueError("a class has at least one submission; name its folders")
    columns = list(zip(*(submission.slots for submission in submissions), strict=True))
    slots = submissions[0].slots
    rows = [["", *(slot.slot for slot in slots), "total"]]
    for submission in submissions:
        cells = [_cell(slot) for slot in submission.slots]
        rows.append([submission.name, *cells, as_number(submission.points)])
    totals = [submission.points for submission in submissions]
    tried = [[slot for slot in column if slot.status == "graded"] for column in columns]
    rows += [
        [],
        ["mean", *(_mean([slot.points for slot in column]) for column in columns), _mean(totals)],
        ["mean of those who tried", *(_mean([s.points for s in done]) for done in tried), ""],
        ["tried by", *(str(len(done)) for done in tried), str(len(submissions))],
        ["out of", *map(_out_of, slots), as_number(submissions[0].out_of)],
    ]
    legend = f"{NOT_ATTEMPTED} not attempted   {MISSING} no file   (n) a bonus, not in the total"
    return "\n".join([*_aligned(rows), "", legend, "", *_alike(alike)]) + "\n"


def _cell(slot: SlotReport) -> str:
    other = {"not attempted": NOT_ATTEMPTED, "missing": MISSING}
    return other.get(slot.status) or as_number(slot.points)


def _mean(points: Sequence[float]) -> str:
    return as_number(math.fsum(points) / len(points)) if points else NOT_ATTEMPTED


def _out_of(slot: SlotReport) -> str:
    return f"({as_number(slot.out_of)})" if slot.bonus else as_number(slot.out_of)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*(row for row in rows if row), strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip() if row else "")
    return lines


def _alike(alike: Sequence[Alike]) -> list[str]:
    if not alike:
        return ["No two files are alike."]
    lines = ["These files are alike. That is a reason to read them and to talk. It is no proof:"]
    for group in alike:
        lines.append(f"  {group.slot}  {group.likeness:4.0%}  {', '.join(group.students)}")
    return lines
