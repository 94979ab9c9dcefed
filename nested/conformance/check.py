"""A check has two parts: a probe runs the code in question, and a judge decides on the evidence.

The parts are separate for two reasons. A reader can inspect the evidence without the verdict, and
one judge can serve several probes. Source: scikit-learn's ``check_estimator``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Evidence = dict[str, Any]  # nested containers of tensors, numbers, strings; no code


class Verdict(NamedTuple):
    """The outcome of a check: ``measured`` is a sentence with numbers, and ``hint`` says what to
    try after a failure."""

    passed: bool
    measured: str
    hint: str = ""


@dataclass(frozen=True)
class Check:
    """One property of a subject.

    ``probe(subject, seed) -> Evidence`` runs the subject and may raise; ``seed`` draws the problem.
    ``judge(evidence) -> Verdict`` sees the evidence alone, never the subject.
    """

    name: str
    probe: Callable[[Any, int], Evidence]
    judge: Callable[[Evidence], Verdict]


class Result(NamedTuple):
    """A check's name and its verdict."""

    name: str
    verdict: Verdict


class ConformanceError(AssertionError):
    """A subject breaks its contract. The message has one line for each check that failed."""


def largest(values: Iterable[float]) -> float:
    """Return the largest number, or NaN if any number is NaN. Python's ``max`` may drop a NaN.
    Raises ``ValueError`` for an empty list."""
    values = list(values)
    return math.nan if any(map(math.isnan, values)) else max(values)


def judge_equal(hint: str, within: float = 1e-9) -> Callable[[Evidence], Verdict]:
    """Return a judge that compares two lists of tensors, {"ours": [...], "others": [...]}.

    Each pair (...) must agree to ``within`` times its largest entry, or times 1 if that is larger.
    """

    def judge(evidence: Evidence) -> Verdict:
        pairs = zip(evidence["ours"], evidence["others"], strict=True)
        pairs = [(a.double(), b.double()) for a, b in pairs if a.numel()]
        apart = largest(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs)
        return Verdict(apart <= within, f"they differ by {apart:.2g}", hint)

    return judge


def run_check(check: Check, subject: Any, seed: int = 0) -> Result:
    """Run a check's probe and judge in this process. An exception counts as a failure."""
    try:
        return Result(check.name, check.judge(check.probe(subject, seed)))
    except Exception as error:  # from the probe, or from a judge that met an unexpected form
        return Result(check.name, broken(error))


def broken(error: BaseException) -> Verdict:
    """Return the verdict on a probe that raised ``error``, with the first line of its message."""
    message = (str(error).strip().splitlines() or [""])[0]
    hint = getattr(
        error, "hint", "an error instead of an answer: which input did the code not expect?"
    )
    if isinstance(error, NotImplementedError):
        hint = "this part is not written yet"
    return Verdict(False, f"{type(error).__name__}: {message}", hint)


def require(results: Sequence[Result], subject: Any) -> None:
    """Raise ``ConformanceError`` if any check failed."""
    failed = [(name, verdict) for name, verdict in results if not verdict.passed]
    if failed:
        lines = [f"  {name}: {v.measured}. {v.hint}".rstrip() for name, v in failed]
        raise ConformanceError("\n".join([f"{subject} breaks its contract:", *lines]))
