"""Slot hw2: a feature of the context that earns its place."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.context import CONTEXT_CHECKS, Feature, seen_in_a_run, values_in_a_run
from nested.homework.remote import call
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served
from nested.homework.slots.gain import judge_gain, learn_and_race
from nested.homework.slots.slot import Slot
from nested.levels.context import Context, observe
from nested.levels.meta_optimizer import MetaOptimizer
from nested.meta.config import MetaConfig
from nested.tasks.digits import Digits

BUILT_IN = tuple(name for name in Context._fields if name != "progress")
TRAINING = MetaConfig(meta_steps=80, unroll_length=10, max_horizon=20, tasks=8)
RANGES = {"lr_range": (1e-2, 2.0), "momentum_range": (0.0, 0.9)}  # in which no run diverges
HORIZON = 20


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
    likeness = {name: _rank_correlation(evidence["own"], evidence[name]) for name in BUILT_IN}
    name, most = max(likeness.items(), key=lambda item: item[1])
    measured = f"most like {name}: rank correlation {most:.4f}"
    return Verdict(most < 0.999, measured, f"{name} is built in; tell the rule something new")


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, without its sign: a logarithm, tanh or multiple of a feature is that feature."""
    ranks = [x.double().flatten().argsort().argsort().double() for x in (one, other)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].abs().item()


def _probe_worth(feature: Feature, seed: int) -> Evidence:
    """The mean losses (T,) of two rules, alike in all but what they see, on held-out tasks."""
    contexts = {"loss only": ("log_loss",), "with it": ("log_loss", feature)}
    rules = {name: MetaOptimizer(context=context, **RANGES) for name, context in contexts.items()}
    return learn_and_race(rules, Digits(), Digits(), TRAINING, HORIZON, seed, "loss only")


SLOT = Slot(
    name="hw2",
    file="hw2_context.py",
    title="A feature that earns its place",
    serve=_serve,
    subject=_subject,
    checks=[
        *CONTEXT_CHECKS,
        Check("it is not a built-in feature", _probe_own, _judge_own),
        Check(
            "it earns its place",
            _probe_worth,
            judge_gain(
                "loss only",
                "with it",
                "what differs between these tasks, and where in the gradients does it show?",
            ),
        ),
    ],
)
