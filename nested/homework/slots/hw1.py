"""Slot hw1: a new family of inner problems."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Generator
from torch.utils._pytree import tree_leaves

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.family import FAMILY_CHECKS
from nested.conformance.small_problem import detached_copy
from nested.homework.borrowed import borrowed
from nested.homework.remote import RemoteFamily
from nested.homework.serve import Served, serve_family
from nested.homework.slots.learned import judge_learned, probe_learned
from nested.homework.slots.slot import Slot, without
from nested.levels.meta_optimizer import MetaOptimizer
from nested.meta.baselines import draw_tasks
from nested.meta.objective import meta_loss
from nested.tasks import FAMILIES
from nested.unroll.batched import unroll_tasks

STEPS, TASKS = 3, 4  # K, T
VALUES = 16  # different numbers that a tensor needs to distinguish two families


def _serve(module: ModuleType) -> Served:
    family = module.MyFamily()
    kind, served = type(family), serve_family(family)

    def draw(seed: int) -> None:
        number = served["sample"](seed, 0)
        served["init"](number, seed)
        served["batch"](number, seed, "train")

    return {
        **served,
        "class": lambda: f"{kind.__module__}.{kind.__qualname__}",
        "borrowed": lambda seed: borrowed(
            lambda: draw(seed), ["tasks"], ("sample", "batch", "batches")
        ),
    }


def _probe_own(family: RemoteFamily, seed: int) -> Evidence:
    """Draw weights and a batch from this family and from each built-in one, with the same seeds."""

    def drawn(ask) -> list:
        number = ask("sample", seed, 0)
        return [
            detached_copy(tree_leaves(ask("init", number, seed))),
            detached_copy(tree_leaves(ask("batch", number, seed, "train"))),
        ]

    def ask_student(function: str, *static):
        return family.sandbox.ask(function, static=static)["out"]

    draws = {"student": drawn(ask_student), "class": ask_student("class")}
    draws["borrowed"] = ask_student("borrowed", seed)
    for name, make in FAMILIES.items():
        served = serve_family(make())
        draws[name] = drawn(lambda function, *static: served[function](*static))
    return draws


def _judge_own(evidence: Evidence) -> Verdict:
    student = evidence["student"]
    if evidence["class"].startswith("nested."):
        return Verdict(False, f"its class is {evidence['class']}", "write a new class")
    if evidence["borrowed"]:
        measured = f"its draws are made by nested.tasks.{evidence['borrowed'][0]}"
        return Verdict(False, measured, "make new data; load_digits() is no family")
    for name in FAMILIES:
        if _are_turned(student[1], evidence[name][1]):
            measured = f"its batches are those of {name}, in another order or other units"
            return Verdict(False, measured, "make new data")
        for part, ours, theirs in zip(("weights", "batches"), student, evidence[name], strict=True):
            if len(ours) == len(theirs) and all(map(_alike, ours, theirs)):
                return Verdict(False, f"its {part} are those of {name}", "make new data")
    return Verdict(True, "no built-in family draws the same data")


def _alike(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Tell whether both have one shape and differ by less than a twentieth of their size."""
    if ours.shape != theirs.shape:
        return False
    apart = (ours.double() - theirs.double()).norm()
    return bool(apart <= 0.05 * theirs.double().norm())


def _are_turned(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    """Tell whether each tensor (...) of theirs is one of ours, in another order or other units.

    Sign, shift and scale do not matter. Tensors with fewer than ``VALUES`` values do not count."""
    theirs = [x for x in map(_in_order, theirs) if len(x.unique()) >= VALUES]
    ours = [x for part in ours for x in (_in_order(part), _in_order(-part))]
    return bool(theirs) and all(
        any(len(x) == len(y) and (x - y).abs().max() < 1e-4 for x in ours) for y in theirs
    )


def _in_order(x: torch.Tensor) -> torch.Tensor:
    x = x.double().flatten().sort().values
    return (x - x.mean()) / x.std(correction=0).clamp(min=1e-12)


def _probe_level_4(family: RemoteFamily, seed: int) -> Evidence:
    rule = MetaOptimizer(lr_range=(1e-5, 1e-2))  # small, because a diverging run proves nothing
    draw = draw_tasks(family, TASKS, STEPS, Generator().manual_seed(seed))
    run = unroll_tasks(draw.loss_fn, draw.params, draw.batches, rule)
    loss = meta_loss(draw.loss_fn, run, draw.query)
    grads = torch.autograd.grad(loss, list(rule.parameters()), materialize_grads=True)
    return {"size": sum(g.abs().sum() for g in grads).detach()}


def _judge_level_4(evidence: Evidence) -> Verdict:
    size = evidence["size"].item()
    measured = f"the hypergradient through {STEPS} steps of {TASKS} tasks has size {size:.3g}"
    hint = (
        "the loss must be twice differentiable in params: no .detach(), no .item(), no no_grad()"
        if size == 0
        else "with learning rates under 0.01 the loss grows without bound: scale it or the data"
    )
    return Verdict(0 < size < float("inf"), measured, hint)


SLOT = Slot(
    name="hw1",
    file="hw1_new_family.py",
    title="A family of your own",
    serve=_serve,
    subject=RemoteFamily,
    checks=[
        *without("it can be learned", FAMILY_CHECKS),
        Check("it can be learned", probe_learned, judge_learned),
        Check("level 4 can learn from it", _probe_level_4, _judge_level_4),
        Check("it is not a built-in family", _probe_own, _judge_own),
    ],
)
