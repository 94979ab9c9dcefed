"""Slot hw_zero: ``unroll`` and ``MetaOptimizer`` from an empty file, in five tasks.

Letters: K inner steps, M meta-steps. Source: ``torch.optim`` and central differences, as in hw0.
Task 5 is compared with a training loop here, with the student's rule and this package's unroll.
"""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator

from nested.conformance.check import Check, Evidence, Verdict, largest
from nested.conformance.small_problem import (
    detached_copy,
    nudged,
    small_batches,
    small_loss,
    small_params,
)
from nested.conformance.update_rule import UPDATE_RULE_CHECKS
from nested.homework.remote import RemoteRule
from nested.homework.slots import hw3
from nested.homework.slots.moves import judge_moves, probe_moves
from nested.homework.slots.slot import Slot
from nested.homework.slots.unrolls import UNROLL_CHECKS, RemoteUnroll
from nested.homework.slots.zero import FAMILY, META_LR, Zero, serve_zero
from nested.homework.slots.zero_steps import CLOSE, TASKS_1_AND_2, flat, weights_of
from nested.meta.baselines import draw_tasks, run_hand_made
from nested.meta.tuned import BASELINES
from nested.unroll.batched import unroll_tasks
from nested.unroll.dispatch import unroll

FEW, STEPS, META_STEPS = 3, 8, 150  # M of the comparison, K, M of the training
META_LRS = (
    META_LR,
    META_LR / 3,
    META_LR / 10,
)  # one after another, so that the last steps are small
LESS, NEAR = 0.9, 1.25  # held-out loss after training, over that before, or of the best constant
CONTRACT = {"Step", "UpdateRule"}  # what the file may import from this package


# --- task 4 --------------------------------------------------------------------------------------


def _probe_seeing(zero: Zero, seed: int) -> Evidence:
    """Compute the signals (2,) at a small and at a large loss."""
    rule, params, result = nudged(zero.rule(), seed), small_params(seed), {}
    for name, value in (("small", 0.1), ("large", 10.0)):
        with torch.no_grad():
            loss = torch.tensor(value, dtype=torch.float64)
            signals = rule(params, small_params(seed + 1), rule.init(params), loss).signals
        result[name] = detached_copy(torch.stack([signals["lr"], signals["momentum"]]))
    return result


def _judge_seeing(evidence: Evidence) -> Verdict:
    apart = (evidence["small"] - evidence["large"]).abs().max().item()
    measured = f"a loss of 10 instead of 0.1 changes the signals by {apart:.2g}"
    return Verdict(apart > 1e-6, measured, "give the loss to the net, and the net's output to step")


def _of(checks: list[Check], task: str, subject: Callable[[Zero], Any], *names: str) -> list[Check]:
    """Return the checks called ``names`` (all, if there are none), named after a task."""

    def asked(check: Check) -> Check:
        return replace(
            check,
            name=f"{task}: {check.name}",
            probe=lambda zero, seed: check.probe(subject(zero), seed),
        )

    return [asked(check) for check in checks if not names or check.name in names]


TASK_4 = [
    Check("4 MetaOptimizer: it sees the loss", _probe_seeing, _judge_seeing),
    *_of(hw3.SLOT.checks, "4 MetaOptimizer", Zero.rule, "its signals stay in bounds"),
    *_of(
        [Check("it moves by its signals", probe_moves, judge_moves)], "4 MetaOptimizer", Zero.rule
    ),
    *_of(
        UPDATE_RULE_CHECKS,
        "4 MetaOptimizer",
        Zero.rule,
        "changes nothing passed in",
        "finite at zero, tiny and huge gradients",
        "the hypergradient is right",
        "every meta-parameter and the state are reached",
        "tasks in a batch do not mix",
    ),
]


# --- task 5 --------------------------------------------------------------------------------------


def _learn(
    zero: Zero, rule: RemoteRule, problems: list, loss: str, lr: float = META_LR
) -> dict[str, Any]:
    """Train the rule by the student's ``meta_train``, on M pairs (params {name: (...)}, K batches).

    Returns the losses (M,) and the rule's parameters {name: (...)}."""
    tensors = {**dict(rule.named_parameters()), **dict(rule.named_buffers())}
    reply = zero.sandbox.ask("learn", tensors, problems, static=(lr, loss))
    return {**reply["out"], "changed": bool(reply["changed"])}


def _probe_meta_steps(zero: Zero, seed: int) -> Evidence:
    """Take M meta-steps by the student's loop and by a loop here."""
    rule = nudged(zero.rule(), seed)
    problems = [(weights_of(seed + i), small_batches(STEPS, seed + i)) for i in range(FEW)]
    result, losses = _learn(zero, rule, problems, "small"), []
    adam = torch.optim.Adam(rule.parameters(), lr=META_LR)
    start = detached_copy(dict(rule.named_parameters()))
    for params, batches in problems:
        adam.zero_grad()
        loss = unroll(small_loss, params, batches, rule).losses.mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    names = list(start)
    return {
        "losses": [result["losses"], torch.tensor(losses, dtype=torch.float64)],
        "rule": [
            flat([p[n] for n in names])
            for p in (result["rule"], detached_copy(dict(rule.named_parameters())), start)
        ],
        "changed": result["changed"],
    }


def _judge_meta_losses(evidence: Evidence) -> Verdict:
    ours, theirs = evidence["losses"]
    if ours.shape != theirs.shape:
        measured = f"the losses have shape {tuple(ours.shape)} for {len(theirs)} tasks"
        return Verdict(False, measured, "return a list with one number for each task")
    apart = largest((ours - theirs).abs().tolist())
    hint = "return the mean of the K losses of each unroll, before the rule changes"
    if evidence["changed"]:
        return Verdict(False, "it writes to the tasks", "change the rule alone")
    return Verdict(apart < CLOSE, f"losses differ by {apart:.2g} in {len(theirs)} meta-steps", hint)


def _judge_meta_steps(evidence: Evidence) -> Verdict:
    ours, theirs, start = evidence["rule"]
    if torch.equal(ours, start):
        return Verdict(
            False, "the rule has not changed", "call loss.backward(), then optimizer.step()"
        )
    apart = (ours - theirs).abs().max().item()
    change = (theirs - start).abs().max().item()
    hint = "make one Adam for all meta-steps, and call zero_grad before each backward"
    measured = (
        f"the rule's parameters change by {change:.2g} in {FEW} steps, with an error of {apart:.2g}"
    )
    return Verdict(apart < 1e-3 * change, measured, hint)


def _probe_learning(zero: Zero, seed: int) -> Evidence:
    """Compute the mean loss on held-out tasks before and after M meta-steps."""
    rule, generator = copy.deepcopy(zero.rule()), Generator().manual_seed(seed)
    problems = []
    for _ in range(META_STEPS):
        task = FAMILY.sample(generator)
        batches = [task.batch(generator) for _ in range(STEPS)]
        problems.append((task.init(generator), batches))
    held_out = draw_tasks(FAMILY.held_out(), 32, STEPS, Generator().manual_seed(1000 + seed))

    def score() -> float:
        run = unroll_tasks(*held_out[:3], rule, differentiable=False)
        return run.losses.mean().item()

    before, stages = score(), len(META_LRS)
    for i, lr in enumerate(META_LRS):
        result = _learn(zero, rule, problems[i::stages], "sum", lr)
        with torch.no_grad():
            for name, p in rule.named_parameters():
                p.copy_(result["rule"][name])
    constants = BASELINES["best constant"](STEPS)
    losses = run_hand_made(constants, held_out).losses[..., :-1]  # (C, T, K)
    return {"before": before, "after": score(), "constant": losses.mean((1, 2)).min().item()}


def _judge_learning(evidence: Evidence) -> Verdict:
    before, after, constant = (evidence[name] for name in ("before", "after", "constant"))
    measured = (
        f"{META_STEPS} meta-steps take the held-out loss from {before:.3f} to {after:.3f};"
        f" the best constants reach {constant:.3f}"
    )
    hint = "can lr reach 0.5, and do the sigmoids start where their slope is not 0?"
    return Verdict(after < LESS * before or after < NEAR * constant, measured, hint)


TASK_5 = [
    Check("5 meta_train: it returns the mean losses", _probe_meta_steps, _judge_meta_losses),
    Check("5 meta_train: Adam follows the hypergradient", _probe_meta_steps, _judge_meta_steps),
    Check("5 meta_train: the rule trains nets it never met", _probe_learning, _judge_learning),
]


# --- all of it -----------------------------------------------------------------------------------


def _probe_parts(zero: Zero, seed: int) -> Evidence:
    counts = zero.sandbox.ask("count", weights_of(seed), small_batches(FEW, seed))["out"]
    return dict(zip(("gradient", "step", "unroll"), counts.tolist(), strict=True))


def _judge_parts(evidence: Evidence) -> Verdict:
    least = {"gradient": FEW, "step": FEW, "unroll": 1}
    unused = [name for name, count in least.items() if evidence[name] < count]
    measured = ", ".join(f"{name} {count} times" for name, count in evidence.items())
    hint = f"call {' and '.join(unused)} instead of repeating the code"
    return Verdict(not unused, f"{FEW} inner steps and a meta-step call {measured}", hint)


def _probe_imports(zero: Zero, seed: int) -> Evidence:
    """List the modules and names that the file imports."""
    imported = []
    for node in ast.walk(ast.parse(zero.sandbox.file.read_bytes())):
        if isinstance(node, ast.Import):
            imported += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported += [(node.module or "", alias.name) for alias in node.names]
    return {"imported": imported}


def _judge_imports(evidence: Evidence) -> Verdict:
    free = sys.stdlib_module_names - {"importlib", "runpy", "pkgutil"} | {"torch"}
    others = [
        f"{module} {name}".strip()
        for module, name in evidence["imported"]
        if module.split(".")[0] not in free
        and not (module.split(".")[0] == "nested" and name in CONTRACT)
    ]
    measured = f"imported besides torch: {', '.join(others) or 'nothing but Step and UpdateRule'}"
    return Verdict(not others, measured, "write it yourself: from nested import Step, UpdateRule")


SLOT = Slot(
    name="hw_zero",
    file="hw_zero_to_unroll.py",
    title="From zero to unroll",
    serve=serve_zero,
    subject=Zero,
    unroll=RemoteUnroll,
    checks=[
        *TASKS_1_AND_2,
        *_of(UNROLL_CHECKS, "3 unroll", Zero.unroll),
        *TASK_4,
        *TASK_5,
        Check("each task uses the one before", _probe_parts, _judge_parts),
        Check("it is written from zero", _probe_imports, _judge_imports),
    ],
)
