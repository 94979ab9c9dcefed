"""The guard of a learned optimizer: it takes back steps that climb, and shrinks the next ones.

State: a copy of the weights and a few numbers.  It sees: gradients, and the loss where it is given.
Clock: every batch.
Source: the bound ``f(w) - f(w0) <= <g, w - w0>`` of convex functions (Boyd and Vandenberghe 2004,
section 3.1.3), used as the test of a trust region (Nocedal and Wright 2006, chapter 4).
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nested.rules.pieces import inner_product

CLIMB = 4.0  # a rise of more than this many promises is a climb
SHRINK = 0.25  # of the trust, for each climb
LEAST = 2.0**-12  # trust
KEPT = "kept weight"  # its name in the state of a weight

Record = dict[str, float]
States = MutableMapping[Tensor, dict[str, Any]]


def new_record() -> Record:
    """Return the numbers of a guard before the first step.

    ``trust`` multiplies the rule's steps. ``steps`` counts them, and ``climbs`` the times that the
    weights went back. ``promise`` is the largest fall ``<g, w - next w>`` that a step was expected
    to bring. The losses are NaN until one is given.
    """
    numbers = {"trust": 1.0, "steps": 0, "promise": 0.0, "climbs": 0}
    return {**numbers, "first loss": math.nan, "kept loss": math.nan}


def rise_since_kept(states: States, weights: Sequence[Tensor]) -> float:
    """Compute ``<g, w - kept>`` over ``weights`` (...): at least what a convex loss rose since the
    weights were kept."""
    watched = [p for p in weights if p.grad is not None and KEPT in states.get(p, ())]
    return _slope(watched, [states[p][KEPT] for p in watched])


def has_climbed(record: Record, rise: float, loss: float | None) -> bool:
    """Decide whether the weights go back to the kept ones: by the ``rise`` that the gradients tell,
    and by the ``loss``, if one is given. As batches differ, a loss may also rise by some times the
    first one."""
    return rise > CLIMB * record["promise"] or _is_higher(record, loss, CLIMB)


def is_worth_keeping(record: Record, rise: float, loss: float | None) -> bool:
    """Decide whether the weights replace the kept ones: not while they may turn out to climb."""
    return not (rise > record["promise"] or _is_higher(record, loss, 1.0))


def go_back(record: Record, states: States, weights: Sequence[Tensor]) -> None:
    """Set ``weights`` (...) to the kept ones, and trust the rule less from now on."""
    for p in weights:
        if KEPT in states.get(p, ()):
            p.copy_(states[p][KEPT])
    record["trust"] = max(SHRINK * record["trust"], LEAST)
    record["climbs"] += 1


def keep(record: Record, states: States, weights: Sequence[Tensor], loss: float | None) -> None:
    """Keep a copy of each of ``weights`` (...) that ever moved, and their loss."""
    for p in weights:
        if KEPT in states.get(p, ()):
            states[p][KEPT].copy_(p)
    if loss is not None:
        record["kept loss"] = loss
        if math.isnan(record["first loss"]):
            record["first loss"] = loss


def note_promise(record: Record, states: States, weights: Sequence[Tensor]) -> None:
    """Remember the fall that the step from the kept weights to ``weights`` (...) promises."""
    promise = abs(rise_since_kept(states, weights))
    if math.isfinite(promise):
        record["promise"] = max(record["promise"], promise)


def _is_higher(record: Record, loss: float | None, times: float) -> bool:
    """Whether a loss is not finite, or far above that of the kept weights."""
    if loss is None or math.isnan(record["kept loss"]):
        return False
    allowed = times * max(record["promise"], abs(record["first loss"]))
    return not loss - record["kept loss"] <= allowed


def _slope(weights: Sequence[Tensor], starts: Sequence[Tensor]) -> float:
    """``<g, w - start>``. A tensor whose part is not finite counts as 0, as a rule reads such
    gradients; if no part is finite, the slope is infinite."""
    parts = []
    for p, start in zip(weights, starts):
        parts.append(inner_product(p.grad, p.detach(), start))
    if not parts or parts[0].is_meta:  # the meta device holds no numbers
        return 0.0
    numbers = torch.stack(parts)
    finite = numbers[numbers.isfinite()]
    return finite.sum().item() if len(finite) else math.inf
