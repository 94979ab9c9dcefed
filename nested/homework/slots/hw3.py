"""Slot hw3: a level 4 that remembers, by an LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from nested.conformance.check import Check, Evidence, Verdict, largest
from nested.conformance.small_problem import cut, nudged, small_params
from nested.conformance.update_rule import UPDATE_RULE_CHECKS
from nested.homework.remote import RemoteRule
from nested.homework.serve import Served, serve_rule
from nested.homework.slots.moves import judge_moves, probe_moves
from nested.homework.slots.slot import Slot, without
from nested.levels.rule import UpdateRule

PAST = (0.5,) * 6  # losses before the step that is looked at
AGO = (1, 3, 5)  # steps back at which one of them is another
EXTREMES = (1e-30, 1e-3, 1.0, 1e3, 1e30)


def _serve(module: ModuleType) -> Served:
    return serve_rule(module.RecurrentRule())


def _signals(
    rule: UpdateRule, seed: int, past: Sequence[float] = PAST, loss: float = 1.0, scale: float = 1.0
) -> dict[str, torch.Tensor]:
    """The signals of a step after ``past``: steps at the same weights whose losses were these and
    whose gradients were zero, so that weights and buffer know nothing of them."""
    rule, params = nudged(rule, seed), small_params(seed)
    zeros = {name: torch.zeros_like(p) for name, p in params.items()}
    grads = {name: scale * g for name, g in small_params(seed + 1).items()}
    state = rule.init(params)
    with torch.no_grad():
        for value in past:
            state = rule(params, zeros, state, torch.tensor(value, dtype=torch.float64)).state
        signals = rule(params, grads, state, torch.tensor(loss, dtype=torch.float64)).signals
    missing = {"lr", "momentum"} - set(signals)
    if missing:
        raise ValueError(f"signals has no {' and no '.join(sorted(missing))}")
    return cut(signals)


def _apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return largest((one[name] - other[name]).abs().max().item() for name in one)


def _probe_memory(rule: UpdateRule, seed: int) -> Evidence:
    """The signals after pasts that differ in one loss."""
    found = {"same": _signals(rule, seed)}
    for ago in AGO:
        past = list(PAST)
        past[-ago] = 4.0
        found[f"{ago} back"] = _signals(rule, seed, past)
    return found


def _judge_memory(evidence: Evidence) -> Verdict:
    apart = {
        case: _apart(signals, evidence["same"])
        for case, signals in evidence.items()
        if case != "same"
    }
    forgotten = [case for case, size in apart.items() if not size > 1e-6]
    said = ", ".join(f"{case} by {size:.1g}" for case, size in apart.items())
    measured = f"a loss of 4 instead of 0.5 changes the signals: {said}"
    hint = f"what was {' and '.join(forgotten)} is forgotten: do h and c run on from step to step?"
    return Verdict(not forgotten, measured, hint)


def _probe_senses(rule: UpdateRule, seed: int) -> Evidence:
    return {
        "now": _signals(rule, seed),
        "another loss": _signals(rule, seed, loss=3.0),
        "larger gradients": _signals(rule, seed, scale=10.0),
    }


def _judge_senses(evidence: Evidence) -> Verdict:
    moved = {
        case: _apart(evidence["now"], evidence[case])
        for case in ("another loss", "larger gradients")
    }
    blind = [case for case, apart in moved.items() if not apart > 1e-6]
    said = ", ".join(f"{case}: the signals move by {apart:.2g}" for case, apart in moved.items())
    return Verdict(not blind, said, "feed the loss and the gradients' norm to the LSTM")


def _probe_bounds(rule: UpdateRule, seed: int) -> Evidence:
    """The least and the largest signals over losses and gradients of all sizes."""
    cases = [
        _signals(rule, seed, loss=loss, scale=scale) for loss in EXTREMES for scale in EXTREMES
    ]
    ends = {}
    for name in ("lr", "momentum"):
        values = torch.cat([case[name].flatten() for case in cases])
        ends[name] = torch.stack([values.min(), values.max()])
    return ends


def _judge_bounds(evidence: Evidence) -> Verdict:
    lr, momentum = evidence["lr"].tolist(), evidence["momentum"].tolist()
    measured = (
        f"with losses and gradients from {EXTREMES[0]:g} to {EXTREMES[-1]:g}, lr goes from"
        f" {lr[0]:.2g} to {lr[1]:.2g} and momentum from {momentum[0]:.2g} to {momentum[1]:.2g}"
    )
    hint = "lr is above 0 and at most 100, momentum from 0 to below 1: a sigmoid keeps them there"
    inside = 0 < lr[0] <= lr[1] <= 100 and 0 <= momentum[0] <= momentum[1] < 1
    return Verdict(inside, measured, hint)


SLOT = Slot(
    name="hw3",
    file="hw3_recurrent_rule.py",
    title="A rule that remembers",
    serve=_serve,
    subject=RemoteRule,
    checks=[
        *without("blind to permuted coordinates", UPDATE_RULE_CHECKS),
        Check("it remembers earlier losses", _probe_memory, _judge_memory),
        Check("it sees loss and gradients", _probe_senses, _judge_senses),
        Check("its signals stay in bounds", _probe_bounds, _judge_bounds),
        Check("it moves by its signals", probe_moves, judge_moves),
    ],
)
