"""Look at a file with the grader's checks, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nested.conformance.check import Verdict, run_check
from nested.homework.sandbox import Sandbox
from nested.homework.slots import SLOTS
from nested.homework.wire import HEAD, pack, unpack
from nested.homework.worker import answer, load
from tests.homework.mutants.mutant import Mutant


class Box(Sandbox):
    """Answers as the student's process does, in this one: no start to wait for."""

    def __init__(self, path: Path, slot: str, seed: int = 0) -> None:
        self.file, self.served = path, SLOTS[slot].serve(load(path, seed))

    def ask(self, function: str, *args: Any, **more: Any) -> dict[str, Any]:
        question = {"function": function, "args": args, "static": (), "transforms": (), "extra": ()}
        with torch.enable_grad():
            return _through_the_wire(answer(self.served, _through_the_wire({**question, **more})))


def _through_the_wire(tree: Any) -> Any:
    data = pack(tree)
    length, _ = HEAD.unpack(data[: HEAD.size])
    text, body = data[HEAD.size :][:length], data[HEAD.size :][length:]
    return unpack(text, body)


def look(path: Path, slot: str, names: list[str], seed: int = 0) -> dict[str, Verdict]:
    """The verdicts of the checks called ``names`` on a file; memory is measured in a sandbox."""
    verdicts = {}
    with Sandbox(path, slot, 60.0) as sandbox:
        for check in SLOTS[slot].checks:
            if check.name in names:
                box = sandbox if "state, not K" in check.name else Box(path, slot, seed)
                subject = SLOTS[slot].subject(box)
                verdicts[check.name] = run_check(check, subject, seed).verdict
    return verdicts


def draw_row(mutant: Mutant, verdicts: dict[str, Verdict]) -> str:
    """A row of the table: "." a check passed, "x" lost, "X" lost and the one that names the fault,
    "!" the one that should have been lost, " " not looked at."""
    marks = []
    for check in SLOTS[mutant.slot].checks:
        verdict = verdicts.get(check.name)
        if verdict is None:
            marks.append(" ")
        elif check.name == mutant.check:
            marks.append("!" if verdict.passed else "X")
        else:
            marks.append("." if verdict.passed else "x")
    return f"  {mutant.slot}  {' '.join(marks)}  {mutant.fault}: {mutant.check}"
