"""Slot hw3: a level 4 with a memory, an LSTM or a GRU.

Letters: M numbers of a memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from nested.conformance.check import Check, Evidence, Verdict, largest
from nested.conformance.small_problem import detached_copy, nudged, small_params
from nested.conformance.update_rule import UPDATE_RULE_CHECKS
from nested.homework.remote import RemoteRule
from nested.homework.serve import Served, serve_rule
from nested.homework.slots.moves import judge_moves, large_params, probe_moves
from nested.homework.slots.slot import Slot, without
from nested.levels.forward import Params, State
from nested.levels.rule import UpdateRule

PAST = (0.5,) * 6  # losses before the step that is measured
AGO = (1, 3, 5)  # steps back at which one loss is different
LATE = (0.5,) * 40  # losses before a late step, on a large net
RUNS = {"early": (PAST, small_params), "late": (LATE, large_params)}
SHAPES = {"matrix": (13, 3), "vector": (17,)}  # of weights; no memory has these shapes
GATED = 1e-4  # least change of the memory's retention with the loss, relative
EXTREMES = (1e-30, 1e-3, 1.0, 1e3, 1e30)


def _serve(module: ModuleType) -> Served:
    return serve_rule(module.RecurrentRule())


@dataclass
class _Run:
    """A run of a rule with fixed weights and gradients of zero.

    So weights and buffer do not depend on the losses. Exceptions of the rule pass through."""

    rule: UpdateRule
    params: Params
    grads: Params  # of the step that is measured
    state: State

    @classmethod
    def begin(cls, rule: UpdateRule, seed: int, draw: Callable[[int], Params]) -> _Run:
        rule, params = nudged(rule, seed), draw(seed)
        return cls(rule, params, draw(seed + 1), rule.init(params))

    @torch.no_grad()
    def after(self, losses: Sequence[float]) -> _Run:
        """Return the run after one more step for each of ``losses``."""
        state, zeros = self.state, {name: torch.zeros_like(p) for name, p in self.params.items()}
        for loss in losses:
            state = self.rule(self.params, zeros, state, _number(loss)).state
        return replace(self, state=state)

    @torch.no_grad()
    def signals(self, loss: float = 1.0, scale: float = 1.0) -> dict[str, Tensor]:
        """Return the signals of a step on gradients times ``scale``.

        Raises ``ValueError`` if lr or momentum is missing."""
        grads = {name: scale * g for name, g in self.grads.items()}
        signals = self.rule(self.params, grads, self.state, _number(loss)).signals
        missing = {"lr", "momentum"} - set(signals)
        if missing:
            raise ValueError(f"signals has no {' and no '.join(sorted(missing))}")
        return detached_copy(signals)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return largest((first[name] - second[name]).abs().max().item() for name in first)


def _probe_memory(rule: UpdateRule, seed: int) -> Evidence:
    """Compute the signals after pasts that differ in one loss, early and late in a run, and the
    slopes of the memory."""
    results, last = {}, max(AGO)
    for when, (past, draw) in RUNS.items():
        run = _Run.begin(rule, seed, draw).after(past[:-last])
        results[when] = {"same": run.after(past[-last:]).signals()}
        for ago in AGO:
            other = list(past[-last:])
            other[-ago] = 4.0
            results[when][f"{ago} back"] = run.after(other).signals()
    return {**results, **_memory_moves(rule, seed)}


def _unlike_memories(seed: int) -> Params:
    generator = Generator().manual_seed(seed)
    return {name: torch.randn(s, generator=generator).double() for name, s in SHAPES.items()}


def _memory_moves(rule: UpdateRule, seed: int) -> Evidence:
    """Compute how the memory after a step depends on the memory before it: slopes (M,) of a mix.

    There is one set for a small loss and one for a large loss, and the slopes with respect to the
    rule's parameters. The memory is every part of the state with a shape that no weight has.
    """
    run, generator = _Run.begin(rule, seed, _unlike_memories), Generator().manual_seed(seed)
    zeros = {name: torch.zeros_like(p) for name, p in run.params.items()}
    leaves, spec = tree_flatten(detached_copy(run.after(PAST).state))
    places = [
        i
        for i, leaf in enumerate(leaves)
        if leaf.is_floating_point() and leaf.shape not in SHAPES.values()
    ]
    if not places:
        return {"slopes": {}}
    before = [leaves[i].requires_grad_() for i in places]
    mix = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in before]
    learned = [p for p in run.rule.parameters() if p.requires_grad]
    slopes, taught = {}, 0.0
    for loss in (0.5, 4.0):
        step = run.rule(run.params, zeros, tree_unflatten(leaves, spec), _number(loss))
        after = tree_leaves(step.state)
        total = sum((after[i] * m).sum().double() for i, m in zip(places, mix, strict=True))
        grads = torch.autograd.grad(total, [*before, *learned], materialize_grads=True)
        slopes[f"{loss:g}"] = torch.cat([g.double().flatten() for g in grads[: len(before)]])
        taught = max(taught, largest(g.abs().max().item() for g in grads[len(before) :]))
    return {"slopes": slopes, "taught": taught}


def _judge_memory(evidence: Evidence) -> Verdict:
    parts = []
    for when in RUNS:
        same, cases = evidence[when]["same"], [f"{ago} back" for ago in AGO]
        apart = {case: _apart(evidence[when][case], same) for case in cases}
        forgotten = [case for case, size in apart.items() if not size > 1e-6]
        parts.append(f"{when} in a run " + ", ".join(f"{c} by {x:.1g}" for c, x in apart.items()))
        measured = f"a loss of 4 instead of 0.5 changes the signals: {'; '.join(parts)}"
        if forgotten:
            losses = " and ".join(forgotten)
            hint = f"the loss {losses} is forgotten: are h and c carried from step to step?"
            return Verdict(False, measured, hint)
    if not evidence["slopes"]:
        return Verdict(False, "its state holds the momentum buffer alone", "keep h and c in it")
    calm, loud = evidence["slopes"].values()
    change = ((calm - loud).norm() / calm.norm().clamp(min=1e-12)).item()
    measured = f"{measured}; another loss changes the memory's retention by {change:.1g}"
    hint = "an average or a window always keeps the same share; gates must depend on the loss"
    if not evidence["taught"] > 0:
        return Verdict(False, f"{measured}, and no parameter changes it", hint)
    return Verdict(change > GATED, measured, hint)


def _probe_senses(rule: UpdateRule, seed: int) -> Evidence:
    results = {}
    for when, (past, draw) in RUNS.items():
        run = _Run.begin(rule, seed, draw).after(past)
        results[when] = {
            "now": run.signals(),
            "another loss": run.signals(loss=3.0),
            "larger gradients": run.signals(scale=10.0),
        }
    return results


def _judge_senses(evidence: Evidence) -> Verdict:
    parts, blind = [], []
    for when, results in evidence.items():
        for case in ("another loss", "larger gradients"):
            apart = _apart(results["now"], results[case])
            parts.append(f"{case}, {when} in a run: the signals change by {apart:.2g}")
            blind += [case] if not apart > 1e-6 else []
    return Verdict(not blind, "; ".join(parts), "feed the loss and the gradients' norm to the LSTM")


def _probe_bounds(rule: UpdateRule, seed: int) -> Evidence:
    """Return the smallest and the largest signals over losses and gradients of all sizes."""
    run = _Run.begin(rule, seed, small_params).after(PAST)
    cases = [run.signals(loss, scale) for loss in EXTREMES for scale in EXTREMES]
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
    hint = "keep lr above 0 and at most 100, momentum from 0 to below 1, by a sigmoid"
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
