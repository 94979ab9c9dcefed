"""Grade many submissions at once. Each process grades one slot of one submission at a time.

The processes share nothing. Each starts a new Python, and starts the students' processes that it
needs. The points do not depend on the number of processes. Source: the ``multiprocessing`` module.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from nested.conformance.check import Verdict
from nested.homework.grade import (
    SlotReport,
    Submission,
    as_name,
    check_folder,
    chosen_slots,
    find_file,
    grade_slot,
    report_checks,
    without_grading,
)
from nested.homework.registry import Worth, read_worth
from nested.homework.slots import SLOTS


@dataclass(frozen=True)
class Unit:
    """The work that one process does at a time: a slot of a submission."""

    place: tuple[int, int]  # numbers of the submission and of the slot
    folder: Path
    slot: str
    worth: Worth
    check: str
    seed: int
    strict: bool

    def grade(self) -> SlotReport:
        """Grade it in this process."""
        return grade_slot(self.slot, self.folder, self.worth, self.check, self.seed, self.strict)

    def give_up(self) -> SlotReport:
        """Report no points, because grading this file has ended two grading processes."""
        measured, hint = "grading this file ends the grader itself", "ask a person to read it"
        verdict, path = Verdict(False, measured, hint), find_file(
            self.folder, SLOTS[self.slot].file
        )
        return report_checks(
            self.slot, path, self.worth, self.check, lambda _: (verdict, self.seed)
        )


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def grade_all(
    folders: Sequence[Path | str],
    *,
    jobs: int | None = None,
    only: Sequence[str] = (),
    check: str = "",
    seed: int = 0,
    strict: bool = False,
    worth: dict[str, Worth] | None = None,
    on_slot: Callable[[Path, str], None] | None = None,
) -> list[Submission]:
    """Grade each folder as ``nested.homework.grade.grade`` does, in ``jobs`` processes.

    By default there is one process for each core. ``on_slot(folder, name)`` is called before each
    slot. A slot that twice ends its grading process gets no points. Returns the submissions in the
    order of ``folders``. Raises ``ValueError`` as ``grade`` does, and for ``jobs`` under 1.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is a whole number from 1, but got {jobs}")
    folders, worth, units = [Path(folder) for folder in folders], worth or read_worth(), []
    names = chosen_slots(only, check, worth)
    reports: dict[tuple[int, int], SlotReport] = {}
    for i, folder in enumerate(folders):
        check_folder(folder)
        for j, name in enumerate(names):
            report = without_grading(name, folder, worth[name])
            if report is not None:
                reports[i, j] = report
            else:
                units.append(Unit((i, j), folder, name, worth[name], check, seed, strict))
    say = on_slot or (lambda folder, slot: None)
    jobs = min(count_cores() if jobs is None else jobs, len(units))
    reports |= _one_by_one(units, say) if jobs < 2 else _side_by_side(units, jobs, say)
    return [
        Submission(as_name(folder), [reports[i, j] for j in range(len(names))])
        for i, folder in enumerate(folders)
    ]


def _one_by_one(units: Sequence[Unit], say: Callable) -> dict[tuple[int, int], SlotReport]:
    reports = {}
    for unit in units:
        say(unit.folder, unit.slot)
        reports[unit.place] = unit.grade()
    return reports


# --- processes -----------------------------------------------------------------------------------


class _Grader:
    """A process that grades units, one after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy all open files
        self.wire, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=False)
        self.process.start()
        theirs.close()
        self.unit: Unit | None = None

    def take(self, unit: Unit) -> None:
        self.unit = unit
        try:
            self.wire.send(unit)
        except OSError:
            pass  # the process has ended, and the next read notices

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.wire.close()


def _work(wire: Connection) -> None:
    torch.set_num_threads(1)
    try:
        while True:
            wire.send(wire.recv().grade())
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the main process is gone


def _side_by_side(
    units: Sequence[Unit], jobs: int, say: Callable
) -> dict[tuple[int, int], SlotReport]:
    waiting, reports, lost = deque(units), {}, []
    graders = [_Grader() for _ in range(jobs)]
    try:
        while len(reports) < len(units):
            for grader in graders:
                if grader.unit is None and waiting:
                    say(waiting[0].folder, waiting[0].slot)
                    grader.take(waiting.popleft())
            busy = {grader.wire: grader for grader in graders if grader.unit is not None}
            for wire in wait(list(busy)):
                grader = busy[wire]
                try:
                    reports[grader.unit.place] = wire.recv()
                    grader.unit = None
                except (EOFError, OSError):
                    if grader.unit in lost:
                        reports[grader.unit.place] = grader.unit.give_up()
                    else:
                        lost.append(grader.unit)
                        waiting.appendleft(grader.unit)
                    grader.stop()
                    graders[graders.index(grader)] = _Grader()
    finally:
        for grader in graders:
            grader.stop()
    return reports
