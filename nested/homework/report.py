"""Write the report in the formats that people and machines read. Every function returns text."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from nested.homework.grade import SlotReport, Submission, as_number

INDENTED = {"initial_indent": " " * 4, "subsequent_indent": " " * 7, "break_long_words": False}


def _headline(slot: SlotReport) -> str:
    bonus = " (bonus)" if slot.bonus else ""
    reached = f"{as_number(slot.points)}/{as_number(slot.out_of)}" if slot.checks else slot.status
    return f"{slot.slot}  {slot.title}{bonus}: {reached}"


def as_text(submissions: Sequence[Submission]) -> str:
    """Write for a terminal, with a line for each check.

    A failed check adds its hint, and the command that runs it alone."""
    lines = []
    for submission in submissions:
        lines.append(f"{submission.name}")
        for slot in submission.slots:
            time = f"   {slot.seconds:.0f} s" if slot.checks else ""
            effort = f"   ({slot.effort})" if slot.effort else ""
            lines.append(f"\n  {_headline(slot)}{time}{effort}")
            for check in slot.checks:
                mark = "ok    " if check.points else "FAILED"
                points = f"{as_number(check.points)}/{as_number(check.out_of)}"
                lines.append(f"    {mark} {points:>9}  {check.name}: {check.measured}")
                if not check.points:
                    lines += [f"{'':>22}{check.hint}"] if check.hint else []
                    lines.append(f"{'':>22}{check.command}")
        lines.append(f"\n  {submission.name}: {submission.total}\n")
    return "\n".join(lines)


def as_hints(
    submissions: Sequence[Submission],
    hints: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
    count: int,
    asked: Sequence[str] = (),
) -> str:
    """Write the first ``count`` hints for the first failed check of each slot, for a terminal.

    Slots that are not attempted get hints if they are in ``asked``. ``hints`` come from
    ``nested.homework.registry.read_hints``."""
    lines = []
    for slot in (slot for submission in submissions for slot in submission.slots):
        lost = [check.name for check in slot.checks if not check.points]
        if not lost and (slot.checks or slot.slot not in asked):
            continue
        (name,) = lost[:1] or [""]
        tables = hints.get(slot.slot, ())
        fitting = [table for start, table in tables if name and name.startswith(start)]
        those = (fitting or [table for _, table in tables] or [[]])[0]
        about = f"{slot.slot}, {name}" if name else slot.slot
        lines.append(f"  Hints for {about}: {min(count, len(those))} of {len(those)}")
        for number, hint in enumerate(those[:count], start=1):
            lines.append(textwrap.fill(f"{number}. {hint}", 100, **INDENTED))
        lines.append(f"    One more: --hint {count + 1}\n" if count < len(those) else "")
    return "\n".join(lines) or "  No check failed, so there is nothing to hint at.\n"


def as_json(submissions: Sequence[Submission]) -> str:
    """Write all submissions as JSON."""
    rows = [
        {**asdict(s), "points": s.points, "out_of": s.out_of, "slots": [_slot(x) for x in s.slots]}
        for s in submissions
    ]
    return json.dumps(rows, indent=1)


def _slot(slot: SlotReport) -> dict:
    return {**asdict(slot), "points": slot.points}


def as_markdown(submissions: Sequence[Submission]) -> str:
    """Write Markdown for a job summary, with a table for each slot."""
    lines = []
    for submission in submissions:
        lines.append(f"## {_escape(submission.name)}: {submission.total}")
        for slot in submission.slots:
            effort = f" ({slot.effort})" if slot.effort else ""
            lines.append(f"\n### {_headline(slot)}{effort}\n")
            if slot.checks:
                lines += ["| | points | check | measured |", "|---|---|---|---|"]
            for check in slot.checks:
                text = _escape(check.measured)
                if not check.points:
                    text += f"<br>{_escape(check.hint)}<br><code>{_escape(check.command)}</code>"
                mark = "✅" if check.points else "❌"
                points = f"{as_number(check.points)}/{as_number(check.out_of)}"
                lines.append(f"| {mark} | {points} | {_escape(check.name)} | {text} |")
        lines.append("")
    return "\n".join(lines)


def _escape(text: str) -> str:
    return "".join(f"&#{ord(c)};" if c in "&<>\\`*_[]|#@" else c for c in text)


def as_gradescope(submissions: Sequence[Submission]) -> str:
    """Write the results.json of a Gradescope autograder, for one submission.

    Raises ``ValueError`` for more than one. Source: Gradescope's autograder specification."""
    if len(submissions) != 1:
        raise ValueError(f"the gradescope format takes one submission, but got {len(submissions)}")
    (submission,) = submissions
    tests = []
    for slot in submission.slots:
        if not slot.checks:
            limits = {"score": 0.0, "max_score": 0.0 if slot.bonus else slot.out_of}
            tests.append({"name": f"{slot.slot} {slot.title}", **limits, "output": slot.status})
        for check in slot.checks:
            output = "\n".join(filter(None, [check.measured, check.hint, check.command]))
            tests.append(
                {
                    "name": f"{slot.slot} {check.name}",
                    "score": round(check.points, 4),
                    "max_score": 0.0 if slot.bonus else round(check.out_of, 4),
                    "status": "passed" if check.points else "failed",
                    "output": check.measured if check.points else output,
                }
            )
    return json.dumps({"score": submission.points, "tests": tests}, indent=1)


def as_csv(submissions: Sequence[Submission]) -> str:
    """Write CSV for a spreadsheet, a row for each check. Cells with formulas are quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["submission", "slot", "status", "bonus", "check", "points", "out_of", "measured"]
    )
    for submission in submissions:
        for slot in submission.slots:
            bonus = "yes" if slot.bonus else "no"
            head = [_cell(submission.name), slot.slot, slot.status, bonus]
            if not slot.checks:
                writer.writerow([*head, "", 0, as_number(slot.out_of), ""])
            for check in slot.checks:
                numbers = [as_number(check.points), as_number(check.out_of)]
                writer.writerow([*head, check.name, *numbers, _cell(check.measured)])
    return out.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


FORMATS = {
    "text": as_text,
    "json": as_json,
    "markdown": as_markdown,
    "gradescope": as_gradescope,
    "csv": as_csv,
}
