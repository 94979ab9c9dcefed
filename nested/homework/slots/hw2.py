"""Slot hw2: a feature of the context that earns its place."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.context import CONTEXT_CHECKS, Feature, seen_in_a_run, values_in_a_run
from nested.homework.remote import call
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served
from nested.homework.slots.slot import Slot
from nested.levels.context import Context, observe
from nested.levels.meta_optimizer import MetaOptimizer
from nested.meta.config import MetaConfig
from nested.meta.race import race
from nested.meta.training import meta_train
from nested.tasks.digits import Digits

BUILT_IN = tuple(name for name in Context._fields if name != "progress")
TRAINING = MetaConfig(meta_steps=80, unroll_length=10, max_horizon=20, tasks=8)
HORIZON, TASKS = 20, 64
SURE = 2.0  # standard errors


def _serve(module: ModuleType) -> Served:
    return {"feature": lambda seen: module.feature(**seen)}


def _subject(sandbox: Sandbox) -> Feature:
    def feature(**seen: Any) -> Tensor:
        return call(sandbox, "feature", seen)

    return feature


def _probe_own(feature: Feature, seed: int) -> Evidence:
    runs = seen_in_a_run(seed)
    values = {"own": values_in_a_run(feature, seed)}
    for name in BUILT_IN:

        def built_in(seen: dict, name: str = name) -> Tensor:
            seen = {key: value for key, value in seen.items() if key != "params"}
            return getattr(observe((name,), **seen), name)

        values[name] = torch.stack([torch.vmap(built_in)(seen) for seen in runs], dim=1)
    return values


def _judge_own(evidence: Evidence) -> Verdict:
    own = evidence["own"].double().flatten()
    likeness = {
        name: torch.corrcoef(torch.stack([own, evidence[name].double().flatten()]))[0, 1]
        .abs()
        .item()
        for name in BUILT_IN
    }
    name, most = max(likeness.items(), key=lambda item: item[1])
    measured = f"most like {name}: correlation {most:.4f}"
    return Verdict(most < 0.999, measured, f"{name} is built in; tell the rule something new")


def _probe_worth(feature: Feature, seed: int) -> Evidence:
    """The mean losses (T,) of two rules, alike in all but what they see, on held-out tasks."""
    family = Digits()
    rules = {
        "loss only": MetaOptimizer(context=("log_loss",)),
        "with the feature": MetaOptimizer(context=("log_loss", feature)),
    }
    for rule in rules.values():
        meta_train(rule, family, replace(TRAINING, seed=seed))
    result = race(rules, family, HORIZON, tasks=TASKS, seed=seed, baselines={})
    return {name: result.entries[name].score("mean") for name in rules}


def _judge_worth(evidence: Evidence) -> Verdict:
    plain, rich = evidence["loss only"], evidence["with the feature"]
    gain = plain - rich
    mean, error = gain.mean().item(), gain.std().item() / TASKS**0.5
    measured = (
        f"mean loss {rich.mean():.3f} with it, {plain.mean():.3f} without: better by {mean:.3f} +-"
        f" {error:.3f} over {TASKS} tasks"
    )
    hint = "what differs between these tasks (their contrast), and where in the gradients does it show?"
    return Verdict(mean > SURE * error and mean > 0, measured, hint)


SLOT = Slot(
    name="hw2",
    file="hw2_context.py",
    title="A feature that earns its place",
    serve=_serve,
    subject=_subject,
    checks=[
        *CONTEXT_CHECKS,
        Check("it is not a built-in feature", _probe_own, _judge_own),
        Check("it earns its place", _probe_worth, _judge_worth),
    ],
)
