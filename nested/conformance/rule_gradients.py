"""Check K steps of an update rule: hypergradients, carried state, many tasks.

Letters: K inner steps, T tasks, D directions of finite differences. Source: the contract in
``nested.levels.rule``; central differences are ``torch.autograd.gradcheck``'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from nested.conformance.check import Check, Evidence, Verdict, judge_equal
from nested.conformance.small_problem import (
    detached_copy,
    in_float64,
    nudged,
    small_batches,
    small_loss,
    small_params,
    used_state,
)
from nested.levels.forward import Params, State
from nested.levels.lend import call_with
from nested.levels.rule import Step, UpdateRule
from nested.unroll.batched import unroll_tasks
from nested.unroll.dispatch import unroll
from nested.unroll.over_tasks import pick_task, stack_tasks

STEPS = 3  # K
DIRECTIONS = 4  # D, for each group of inputs
DELTA, WIDE = 1e-5, (0.01, 0.03)  # of finite differences with two points, and with five
CLOSE, BROADLY = 1e-4, 1e-3  # relative errors of slopes; the second where rounding is large
ROUGH = 1e-11  # larger third differences are rounding: smooth ones are about DELTA^3


# --- the hypergradient ---------------------------------------------------------------------------


def _groups(rule: UpdateRule, seed: int) -> tuple[dict[str, list[Tensor]], Any]:
    """Sort the inputs of an unroll into groups. Also return a function from groups to the outcome,
    a vector."""
    names = [name for name, _ in rule.named_parameters()]
    start, state = used_state(rule, small_params(seed), seed)
    leaves, spec = tree_flatten(state)
    moving = [i for i, x in enumerate(leaves) if torch.is_tensor(x) and x.is_floating_point()]
    groups = {
        "level 4": [p.detach().clone() for p in rule.parameters()],
        "the initial weights": list(start.values()),
        "the initial state": [leaves[i] for i in moving],
    }
    batches = small_batches(STEPS, seed)

    def outcome(groups: dict[str, list[Tensor]]) -> Tensor:
        weights = dict(zip(names, groups["level 4"], strict=True))
        params = dict(zip(start, groups["the initial weights"], strict=True))
        filled = list(leaves)
        for i, leaf in zip(moving, groups["the initial state"], strict=True):
            filled[i] = leaf
        run = unroll(
            small_loss, params, batches, _Borrowing(rule, weights), tree_unflatten(filled, spec)
        )
        return torch.cat([run.losses, *(p.reshape(-1) for p in run.params.values())])

    return groups, outcome


class _Borrowing(UpdateRule):
    """Run a rule with weights that are arguments, so that they can be differentiated."""

    def __init__(self, rule: UpdateRule, weights: Params) -> None:
        super().__init__()
        self.rule, self.weights = rule, weights

    def init(self, params: Params) -> State:
        return self.rule.init(params)

    def forward(self, *arguments: Any) -> Step:
        return call_with(self.rule, self.weights, *arguments)


def _probe_hypergradient(rule: UpdateRule, seed: int) -> Evidence:
    """Compute slopes along random directions, by autograd and by central differences.

    There are two points: one may lie on a kink (a clamp, a ReLU), but hardly both."""
    return {f"point {at}": _slopes(in_float64(rule), at) for at in (seed, seed + 1)}


def _slopes(rule: UpdateRule, seed: int) -> Evidence:
    groups, outcome = _groups(rule, seed)
    generator = Generator().manual_seed(seed)
    points = {g: [x.clone().requires_grad_() for x in xs] for g, xs in groups.items()}
    result = outcome(points)
    mix = torch.randn(result.shape, generator=generator, dtype=result.dtype)
    flat = [x for xs in points.values() for x in xs]
    grads = iter(torch.autograd.grad((result * mix).sum(), flat, materialize_grads=True))
    slopes = {}
    for group, tensors in groups.items():
        gradient = [next(grads) for _ in tensors]
        rows = []
        for _ in range(DIRECTIONS if tensors else 0):
            along = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in tensors]
            if group == "the initial state":  # a sum of squares must stay above zero
                along = [d * x.abs() for d, x in zip(along, tensors, strict=True)]
            length = math.sqrt(sum((d**2).sum().item() for d in along))
            along = [d / max(length, 1e-12) for d in along]

            def at(by: float, along: list = along, group: str = group) -> float:
                shifted = [x + by * d for x, d in zip(groups[group], along, strict=True)]
                return (outcome({**groups, group: shifted}).detach() * mix).sum().item()

            by_autograd = sum((g * d).sum() for g, d in zip(gradient, along, strict=True)).item()
            rows.append([by_autograd, *_difference(at, by_autograd)])
        slopes[group] = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
    return slopes


def _difference(at: Callable[[float], float], by_autograd: float) -> tuple[float, bool]:
    """Compute the slope of ``at`` at 0 by central differences, and tell whether values are rough.

    They are rough where rounding dominates a small difference, as in a rule that computes in
    float32. The slope then comes from points further apart."""
    apart = at(DELTA) - at(-DELTA)
    slope = apart / (2 * DELTA)
    if abs(slope - by_autograd) <= CLOSE * max(abs(slope), abs(by_autograd)):
        return slope, False
    if not abs(at(2 * DELTA) - at(-2 * DELTA) - 2 * apart) > ROUGH:  # third differences
        return slope, False
    slopes = []
    for wide in WIDE:
        a, b, c, d = (at(x * wide) for x in (-2, -1, 1, 2))
        slopes.append((a - 8 * b + 8 * c - d) / (12 * wide))
    return min(slopes, key=lambda slope: abs(slope - by_autograd)), True


def _judge_hypergradient(evidence: Evidence) -> Verdict:
    worst = {}
    for slopes in evidence.values():
        for group, rows in slopes.items():
            by_autograd, by_difference, rough = rows.unbind(1)
            size = torch.maximum(by_autograd.abs(), by_difference.abs()).clamp(min=1e-3)
            size = torch.where(rough > 0, size.max() * BROADLY / CLOSE, size) if len(rows) else size
            errors = (by_autograd - by_difference).abs() / size
            error = errors.max().item() if len(rows) else 0.0
            error = math.inf if math.isnan(error) else error
            worst[group] = min(worst.get(group, math.inf), error)
    group, error = max(worst.items(), key=lambda item: item[1])
    measured = f"autograd and finite differences differ by {error:.1g} of the slope"
    hint = f"the hypergradient of {group} is wrong: is something detached, or made a float?"
    return Verdict(error < CLOSE, measured, hint)


# --- who is reached ------------------------------------------------------------------------------


def _probe_reach(rule: UpdateRule, seed: int) -> Evidence:
    """Measure the hypergradient of each meta-parameter, and how much each step's loss depends on
    the initial state."""
    rule = nudged(rule, seed)
    start, state = used_state(rule, small_params(seed), seed)
    leaves, spec = tree_flatten(state)
    shapes = {p.shape for p in start.values()} - {torch.Size(())}
    leaves = [x.requires_grad_() if torch.is_tensor(x) and x.shape in shapes else x for x in leaves]
    batches = small_batches(STEPS + 1, seed)
    run = unroll(small_loss, start, batches, rule, tree_unflatten(leaves, spec))
    sources = {name: p for name, p in rule.named_parameters() if p.requires_grad}
    total = run.losses[1:].sum()
    grads = torch.autograd.grad(
        total, list(sources.values()), retain_graph=True, materialize_grads=True
    )
    memory = [x for x in leaves if torch.is_tensor(x) and x.requires_grad]
    by_step = []
    for loss in run.losses[1:] if memory else ():
        parts = torch.autograd.grad(loss, memory, retain_graph=True, materialize_grads=True)
        by_step.append(max(g.abs().max().item() for g in parts))
    sizes = {name: g.abs().max().item() for name, g in zip(sources, grads, strict=True)}
    return {"parameters": sizes, "state_by_step": by_step}


def _judge_reach(evidence: Evidence) -> Verdict:
    dead = [name for name, size in evidence["parameters"].items() if not size > 0]
    if dead:
        hint = "is a signal detached, rounded, clamped, or made a float?"
        return Verdict(False, f"no hypergradient reaches {', '.join(dead)}", hint)
    for step, size in enumerate(evidence["state_by_step"], start=1):
        if not size > 0:
            measured = f"the loss after {step} updates does not depend on the initial state"
            return Verdict(False, measured, "is the state detached between steps?")
    return Verdict(True, "hypergradients reach all meta-parameters and the initial state")


# --- an unroll is nothing but a loop -------------------------------------------------------------


def _probe_loop(rule: UpdateRule, seed: int) -> Evidence:
    rule = in_float64(rule)
    params, batches = small_params(seed), small_batches(STEPS, seed)
    run = unroll(small_loss, params, batches, rule, differentiable=False)
    by_hand, state, losses = params, rule.init(params), []
    for batch in batches:
        points = {name: p.detach().requires_grad_() for name, p in by_hand.items()}
        loss = small_loss(points, batch)
        grads = torch.autograd.grad(loss, list(points.values()), materialize_grads=True)
        with torch.no_grad():
            grads = dict(zip(points, grads, strict=True))
            by_hand, state, _ = rule(by_hand, grads, state, loss.detach())
        losses.append(loss.detach())
    manual = [torch.stack(losses), *by_hand.values()]
    return {
        "ours": detached_copy([run.losses, *run.params.values()]),
        "others": detached_copy(manual),
    }


def _probe_carried(rule: UpdateRule, seed: int) -> Evidence:
    rule = in_float64(rule)
    params, batches = small_params(seed), small_batches(2 * STEPS, seed)
    whole = unroll(small_loss, params, batches, rule, differentiable=False)
    first = unroll(small_loss, params, batches[:STEPS], rule, differentiable=False)
    rest = unroll(
        small_loss, first.params, batches[STEPS:], rule, first.state, differentiable=False
    )
    pieces = [torch.cat([first.losses, rest.losses]), *rest.params.values()]
    return {
        "ours": detached_copy([whole.losses, *whole.params.values()]),
        "others": detached_copy(pieces),
    }


def _probe_tasks(rule: UpdateRule, seed: int) -> Evidence:
    """Run three tasks together, and each alone."""
    rule = in_float64(rule)
    params = [small_params(seed + t) for t in range(3)]
    batches = [small_batches(STEPS, seed + t) for t in range(3)]
    stacked = [stack_tasks([batches[t][k] for t in range(3)]) for k in range(STEPS)]
    together = unroll_tasks(small_loss, stack_tasks(params), stacked, rule, differentiable=False)
    ours, others = [], []
    for t in range(3):
        alone = unroll(small_loss, params[t], batches[t], rule, differentiable=False)
        ours += [together.losses[t], *pick_task(together.params, t).values()]
        others += [alone.losses, *alone.params.values()]
    return {"ours": detached_copy(ours), "others": detached_copy(others)}


GRADIENT_CHECKS = [
    Check("the hypergradient is right", _probe_hypergradient, _judge_hypergradient),
    Check("every meta-parameter and the state are reached", _probe_reach, _judge_reach),
    Check(
        "an unroll is a loop over the rule",
        _probe_loop,
        judge_equal("does the rule depend on its caller, or on the graph?"),
    ),
    Check(
        "carried state continues a run",
        _probe_carried,
        judge_equal("keep everything that the next step needs in the state"),
    ),
    Check(
        "tasks in a batch do not mix",
        _probe_tasks,
        judge_equal(
            "a rule sees one task: it may not branch on values or reduce over tasks",
            within=1e-6,  # float32 rounds differently in a batch
        ),
    ),
]
