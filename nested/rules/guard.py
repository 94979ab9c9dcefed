"""The guard of a learned optimizer: it undoes steps that raise the loss, and shrinks later ones.

State: a copy of the weights and a few numbers.  It sees: gradients, and the loss if given.
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

CLIMB = 4.0  # the loss has climbed if it rose by more than CLIMB times the promised decrease
SHRINK = 0.25  # each climb multiplies the trust by this
MIN_TRUST = 2.0**-12
KEPT = "kept weight"  # the key of the copy in the state of a weight

Record = dict[str, float]
States = MutableMapping[Tensor, dict[str, Any]]


def new_record() -> Record:
    """Return the numbers of a guard before the first step.

    ``trust`` multiplies the rule's steps. ``steps`` counts them, and ``climbs`` counts the undone
    ones. ``promise`` is the largest decrease ``<g, w - next w>`` of the loss that the gradient
    predicted for a step. The losses are NaN until one is given.
    """
    numbers = {"trust": 1.0, "steps": 0, "promise": 0.0, "climbs": 0}
    return {**numbers, "first loss": math.nan, "kept loss": math.nan}


def rise_since_kept(states: States, weights: Sequence[Tensor]) -> float:
    """Compute ``<g, w - kept>`` over ``weights`` (...).

    It is at least the rise of a convex loss since the weights were kept.
    """
    watched = [p for p in weights if p.grad is not None and KEPT in states.get(p, ())]
    return _slope(watched, [states[p][KEPT] for p in watched])


def has_climbed(record: Record, rise: float, loss: float | None) -> bool:
    """Decide whether to restore the kept weights: by the ``rise`` that gradients show, and by the
    ``loss``, if one is given. As batches differ, a loss may also rise by ``CLIMB`` times the first
    one."""
    return rise > CLIMB * record["promise"] or _is_higher(record, loss, CLIMB)


def is_worth_keeping(record: Record, rise: float, loss: float | None) -> bool:
    """Decide whether the weights replace the kept ones: not while the loss may be climbing."""
    return not (rise > record["promise"] or _is_higher(record, loss, 1.0))


def go_back(record: Record, states: States, weights: Sequence[Tensor]) -> None:
    """Restore the kept ``weights`` (...), and reduce the trust in the rule."""
    for p in weights:
        if KEPT in states.get(p, ()):
            p.copy_(states[p][KEPT])
    record["trust"] = max(SHRINK * record["trust"], MIN_TRUST)
    record["climbs"] += 1


def keep(record: Record, states: States, weights: Sequence[Tensor], loss: float | None) -> None:
    """Update the kept copy of each of ``weights`` (...) that has a state, and their loss."""
    for p in weights:
        if KEPT in states.get(p, ()):
            states[p][KEPT].copy_(p)
    if loss is not None:
        record["kept loss"] = loss
        if math.isnan(record["first loss"]):
            record["first loss"] = loss


def note_promise(record: Record, states: States, weights: Sequence[Tensor]) -> None:
    """Record the decrease that the gradient predicts for the step to ``weights`` (...)."""
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
    """Compute ``<g, w - start>`` (). A tensor whose part is not finite counts as 0. If no part is
    finite, the slope is infinite."""
    parts = []
    for p, start in zip(weights, starts):
        parts.append(inner_product(p.grad, p.detach(), start))
    if not parts or parts[0].is_meta:  # no numbers on the meta device
        return 0.0
    numbers = torch.stack(parts)
    finite = numbers[numbers.isfinite()]
    return finite.sum().item() if len(finite) else math.inf
