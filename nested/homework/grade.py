"""Grade a student's folder: run each slot's checks on code in a separate process."""

from __future__ import annotations

import math
import shlex
import time
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nested.conformance.check import Check, Verdict, run_check
from nested.homework.registry import Worth, fingerprint, read_worth
from nested.homework.sandbox import Sandbox
from nested.homework.slots import SLOTS
from nested.homework.slots.slot import Slot

STRICT_SEEDS = 3
LONGEST = 400  # characters of a sentence about a check
LARGEST_FILE = 2**20  # bytes; every stub is smaller


@dataclass(frozen=True)
class CheckReport:
    """One line of the report."""

    name: str
    points: float
    out_of: float
    measured: str
    hint: str
    command: str  # runs this check alone


@dataclass(frozen=True)
class SlotReport:
    """One slot of a submission. ``status`` is "graded", "not attempted" or "missing"."""

    slot: str
    title: str
    status: str
    out_of: float
    bonus: bool
    seconds: float = 0.0
    checks: list[CheckReport] = field(default_factory=list)
    effort: str = ""  # time and difficulty, as a sentence

    @property
    def points(self) -> float:
        """The student's points, to a hundredth."""
        return round(math.fsum(check.points for check in self.checks), 2)

    @property
    def is_full(self) -> bool:
        """True if every check passed."""
        return self.status == "graded" and all(check.points for check in self.checks)


@dataclass(frozen=True)
class Submission:
    """A student's folder, graded."""

    name: str
    slots: list[SlotReport]

    @property
    def points(self) -> float:
        """The student's points, with those of bonus slots."""
        return round(math.fsum(slot.points for slot in self.slots), 2)

    @property
    def out_of(self) -> float:
        """The possible points, without bonus slots."""
        return round(math.fsum(slot.out_of for slot in self.slots if not slot.bonus), 2)

    @property
    def bonus(self) -> float:
        """The possible points of bonus slots."""
        return round(math.fsum(slot.out_of for slot in self.slots if slot.bonus), 2)

    @property
    def total(self) -> str:
        """The student's points and the possible points, as a sentence."""
        more = f", and {as_number(self.bonus)} as a bonus" if self.bonus else ""
        return f"{as_number(self.points)} of {as_number(self.out_of)} points{more}"


def as_number(points: float) -> str:
    """Write points without needless zeros: "2", "0.5", "1.36"."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def grade(
    folder: Path | str,
    *,
    only: Sequence[str] = (),
    check: str = "",
    seed: int = 0,
    strict: bool = False,
    worth: dict[str, Worth] | None = None,
    on_slot: Callable[[str], None] | None = None,
) -> Submission:
    """Grade the slots that are switched on, or those in ``only``, in a student's folder.

    ``check`` names a single check to run. ``seed`` draws the problems. With ``strict`` they come
    from three seeds, and the worst counts. ``on_slot(name)`` is called before each slot. Raises
    ``ValueError`` for a folder, slot or check that does not exist.
    """
    worth = worth or read_worth()
    check_folder(Path(folder))
    reports = []
    for name in chosen_slots(only, check, worth):
        if on_slot is not None:
            on_slot(name)
        reports.append(grade_slot(name, folder, worth[name], check, seed, strict))
    return Submission(as_name(folder), reports)


def check_folder(folder: Path) -> None:
    """Raise ``ValueError`` unless ``folder`` is a folder."""
    if not folder.is_dir():
        problem = "is a file; name its folder" if folder.exists() else "is not there"
        raise ValueError(f"{str(folder)!r} {problem}")


def chosen_slots(only: Sequence[str], check: str, worth: dict[str, Worth]) -> list[str]:
    """Return the names of the slots to grade: those in ``only``, or all that are switched on.

    If ``check`` is given, only slots with a check of that name stay. Raises ``ValueError`` for a
    slot or check that does not exist."""
    unknown = sorted(set(only) - set(SLOTS))
    if unknown:
        raise ValueError(f"there is no slot {', '.join(unknown)}; choose from {', '.join(SLOTS)}")
    names = [name for name in SLOTS if (name in only if only else worth[name].on)]
    if not check:
        return names
    matching = [name for name in names if any(c.name == check for c in SLOTS[name].checks)]
    if not matching:
        raise ValueError(f"there is no check {check!r} in {', '.join(names)}")
    return matching


def as_name(folder: Path | str) -> str:
    """Return a folder's name as one line of printable characters."""
    return _one_line(str(folder).encode("utf-8", "replace").decode())


def find_file(folder: Path, file: str) -> Path | None:
    """Find the student's file in the folder, or in ``examples/homework`` below it. Links do not
    count."""
    for place in (folder, folder / "examples" / "homework"):
        path = folder.resolve() / place.relative_to(folder) / file
        if path.is_file() and path.resolve() == path:
            return place / file
    return None


def without_grading(name: str, folder: Path | str, worth: Worth) -> SlotReport | None:
    """Return the report on a slot whose file is missing or not attempted, or None for a slot to
    grade."""
    slot, path = SLOTS[name], find_file(Path(folder), SLOTS[name].file)
    if path is not None and not _is_untouched(path, worth):
        return None
    status = "missing" if path is None else "not attempted"
    about = slot.name, slot.title, status, worth.points, worth.bonus
    return SlotReport(*about, effort=worth.effort)


def grade_slot(
    name: str,
    folder: Path | str,
    worth: Worth,
    check: str = "",
    seed: int = 0,
    strict: bool = False,
) -> SlotReport:
    """Grade one slot of a student's folder. The arguments are those of ``grade``."""
    report = without_grading(name, folder, worth)
    if report is not None:
        return report
    seeds = range(seed, seed + (STRICT_SEEDS if strict else 1))
    slot, path = SLOTS[name], find_file(Path(folder), SLOTS[name].file)
    with Sandbox(path, name, worth.seconds * len(seeds)) as sandbox:
        return report_checks(
            name, path, worth, check, lambda check: _worst_verdict(check, slot, sandbox, seeds)
        )


def report_checks(
    name: str,
    path: Path,
    worth: Worth,
    only: str,
    judge: Callable[[Check], tuple[Verdict, int]],
) -> SlotReport:
    """Report on the file ``path``, check by check.

    ``judge(check)`` returns a verdict and its seed. ``only`` names a single check, or is empty."""
    slot, began, lines = SLOTS[name], time.monotonic(), []
    for check in slot.checks:
        if only in ("", check.name):
            verdict, seed = judge(check)
            out_of = worth.share(check.name, [check.name for check in slot.checks])
            command = (
                f"python -m nested.homework grade {shlex.quote(str(path.parent))}"
                f" --only {slot.name}"
                f' --check "{check.name}"' + (f" --seed {seed}" if seed else "")
            )
            points = out_of if verdict.passed else 0.0
            texts = _one_line(verdict.measured), _one_line(verdict.hint)
            lines.append(CheckReport(check.name, points, out_of, *texts, command))
    seconds = round(time.monotonic() - began, 1)
    out_of = math.fsum(line.out_of for line in lines)  # of the checks that ran
    about = slot.name, slot.title, "graded", out_of, worth.bonus, seconds
    return SlotReport(*about, checks=lines, effort=worth.effort)


def _is_untouched(path: Path, worth: Worth) -> bool:
    try:
        is_small = path.stat().st_size < LARGEST_FILE
        return is_small and fingerprint(path) == worth.fingerprint
    except (SyntaxError, ValueError, OSError, tokenize.TokenError):
        return False


def _worst_verdict(check: Check, slot: Slot, sandbox: Sandbox, seeds: range) -> tuple[Verdict, int]:
    for seed in seeds:
        asked = Check(check.name, lambda box, at: check.probe(slot.subject(box), at), check.judge)
        verdict = run_check(asked, sandbox, seed).verdict
        if not verdict.passed:
            break
    return verdict, seed


def _one_line(text: str) -> str:
    """Turn text from a student's code into one line of printable characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
