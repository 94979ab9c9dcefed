"""What a slot is: a file that a student edits, and how it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nested.conformance.check import Check
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served


def without(name: str, checks: list[Check]) -> list[Check]:
    """All ``checks`` but the one called ``name``: one that a slot has no use for. Raises
    ``ValueError`` when there is none."""
    if name not in [check.name for check in checks]:
        raise ValueError(f"there is no check {name!r}")
    return [check for check in checks if check.name != name]


@dataclass(frozen=True)
class Slot:
    """``serve(module)`` runs beside the student's code and says which functions it answers for;
    ``subject(sandbox)`` is the stand-in on the grader's side that ``checks`` look at."""

    name: str  # "hw0"
    file: str  # in examples/homework
    title: str
    serve: Callable[[ModuleType], Served]
    subject: Callable[[Sandbox], Any]
    checks: list[Check]
    unroll: Callable[[Sandbox], Any] | None = None  # a RemoteUnroll to draw, if there is one
