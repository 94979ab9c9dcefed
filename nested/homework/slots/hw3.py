"""Slot hw3: a level 4 that remembers, by an LSTM."""

from __future__ import annotations

from types import ModuleType

import torch
from torch.utils._pytree import tree_leaves

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.small_problem import cut, in_float64, small_params
from nested.conformance.update_rule import UPDATE_RULE_CHECKS
from nested.homework.remote import RemoteRule
from nested.homework.serve import Served, serve_rule
from nested.homework.slots.slot import Slot
from nested.levels.rule import UpdateRule


def _serve(module: ModuleType) -> Served:
    return serve_rule(module.RecurrentRule())


def _signals(rule: UpdateRule, seed: int, first_loss: float, loss: float = 1.0, scale: float = 1.0):
    """The signals of a second step whose loss and gradients do not depend on the first loss."""
    rule, params = in_float64(rule), small_params(seed)
    one, two = small_params(seed + 1), small_params(seed + 2)

    def scalar(value: float) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64)

    with torch.no_grad():
        first = rule(params, one, rule.init(params), scalar(first_loss))
        grads = {name: scale * g for name, g in two.items()}
        step = rule(params, grads, first.state, scalar(loss))
    if not step.signals:
        raise ValueError("the rule has no signals: return at least lr and momentum")
    return torch.cat([s.flatten() for s in cut(tree_leaves(step.signals))])


def _probe_memory(rule: UpdateRule, seed: int) -> Evidence:
    return {"after 0.5": _signals(rule, seed, 0.5), "after 4": _signals(rule, seed, 4.0)}


def _judge_memory(evidence: Evidence) -> Verdict:
    apart = (evidence["after 0.5"] - evidence["after 4"]).abs().max().item()
    measured = f"an earlier loss of 4 instead of 0.5 changes the signals by {apart:.2g}"
    hint = "gradients and buffer are the same in both: only a memory of earlier losses can tell"
    return Verdict(apart > 1e-6, measured, hint)


def _probe_senses(rule: UpdateRule, seed: int) -> Evidence:
    return {
        "now": _signals(rule, seed, 1.0),
        "another loss": _signals(rule, seed, 1.0, loss=3.0),
        "larger gradients": _signals(rule, seed, 1.0, scale=10.0),
    }


def _judge_senses(evidence: Evidence) -> Verdict:
    moved = {
        case: (evidence["now"] - evidence[case]).abs().max().item()
        for case in ("another loss", "larger gradients")
    }
    blind = [case for case, apart in moved.items() if not apart > 1e-6]
    said = ", ".join(f"{case} changes the signals by {apart:.2g}" for case, apart in moved.items())
    return Verdict(not blind, said, "feed the loss and the gradients' norm to the LSTM")


SLOT = Slot(
    name="hw3",
    file="hw3_recurrent_rule.py",
    title="A rule that remembers",
    serve=_serve,
    subject=RemoteRule,
    checks=[
        *UPDATE_RULE_CHECKS,
        Check("it remembers earlier losses", _probe_memory, _judge_memory),
        Check("it sees loss and gradients", _probe_senses, _judge_senses),
    ],
)
