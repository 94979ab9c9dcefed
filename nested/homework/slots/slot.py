"""Describe a slot: the file that a student edits, its proxy, and its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nested.conformance.check import Check
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served


def without(name: str, checks: list[Check]) -> list[Check]:
    """Return ``checks`` without the one called ``name``.

    Raises ``ValueError`` for an unknown name."""
    if name not in [check.name for check in checks]:
        raise ValueError(f"there is no check {name!r}")
    return [check for check in checks if check.name != name]


@dataclass(frozen=True)
class Slot:
    """One homework problem.

    ``serve(module)`` runs in the student's process, and returns the student functions to call.
    ``subject(sandbox)`` makes the proxy that calls them in the sandbox. ``checks`` test the proxy.
    """

    name: str  # "hw0"
    file: str  # in examples/homework
    title: str
    serve: Callable[[ModuleType], Served]
    subject: Callable[[Sandbox], Any]
    checks: list[Check]
    unroll: Callable[[Sandbox], Any] | None = None  # a RemoteUnroll to draw, if the slot has one
