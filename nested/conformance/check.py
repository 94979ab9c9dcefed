"""What a check is: a probe that runs the code in question, and a judge of what came back.

Source: the spirit of scikit-learn's ``check_estimator``. The two are kept apart so that what was
measured can be looked at without what is thought of it, and one judge can serve several probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Evidence = dict[str, Any]  # nested containers of tensors, numbers, strings; no code


class Verdict(NamedTuple):
    """A judgement: ``measured`` says what was found; ``hint``, on failure, where to look."""

    passed: bool
    measured: str
    hint: str = ""


@dataclass(frozen=True)
class Check:
    """One property. ``probe(subject, seed) -> Evidence`` may raise; ``judge(evidence) -> Verdict``
    sees nothing of the subject but the evidence. ``seed`` draws the problem it is probed on."""

    name: str
    probe: Callable[[Any, int], Evidence]
    judge: Callable[[Evidence], Verdict]


class Result(NamedTuple):
    """A check's name and its verdict."""

    name: str
    verdict: Verdict


class ConformanceError(AssertionError):
    """A subject breaks its contract; the message has one line for each check that failed."""


def largest(values: Iterable[float]) -> float:
    """The largest of some numbers, and NaN if any is NaN: Python's ``max`` may lose that one.
    Raises ``ValueError`` for none."""
    values = list(values)
    return math.nan if any(map(math.isnan, values)) else max(values)


def judge_equal(hint: str, within: float = 1e-9) -> Callable[[Evidence], Verdict]:
    """Return a judge of {"ours": [...], "others": [...]}, tensors (...) that are to be the same to
    ``within`` of the larger of 1 and the largest entry."""

    def judge(evidence: Evidence) -> Verdict:
        pairs = zip(evidence["ours"], evidence["others"], strict=True)
        pairs = [(a.double(), b.double()) for a, b in pairs if a.numel()]
        apart = largest(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs)
        return Verdict(apart <= within, f"they differ by {apart:.2g}", hint)

    return judge


def run_check(check: Check, subject: Any, seed: int = 0) -> Result:
    """Probe and judge in this process; an exception is a failure, with its words."""
    try:
        return Result(check.name, check.judge(check.probe(subject, seed)))
    except Exception as error:  # what it raises, or returns in a form that no judge expects
        return Result(check.name, broken(error))


def broken(error: BaseException) -> Verdict:
    """The verdict on a probe that raised."""
    said = (str(error).strip().splitlines() or [""])[0]
    hint = getattr(error, "hint", "an error instead of an answer: what was not expected here?")
    if isinstance(error, NotImplementedError):
        hint = "this part is still to be written"
    return Verdict(False, f"{type(error).__name__}: {said}", hint)


def require(results: Sequence[Result], subject: Any) -> None:
    """Raise ``ConformanceError`` if any check failed."""
    failed = [(name, verdict) for name, verdict in results if not verdict.passed]
    if failed:
        lines = [f"  {name}: {v.measured}. {v.hint}".rstrip() for name, v in failed]
        raise ConformanceError("\n".join([f"{subject} breaks its contract:", *lines]))
