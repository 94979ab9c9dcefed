"""Train two rules, race them, and judge whether one is better by more than chance.

Letters: T tasks. Source: a paired test on matched tasks, as in ``nested.meta.race``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from nested.conformance.check import Evidence, Verdict
from nested.levels.rule import UpdateRule
from nested.meta.config import MetaConfig
from nested.meta.race import race
from nested.meta.training import meta_train
from nested.tasks.family import TaskFamily

TASKS = 64  # T, held out
SURE = 2.0  # standard errors that a paired difference must have
LEAST = 0.01  # least gain, as a share of the loss
_KNOWN: dict[tuple, Tensor] = {}  # the losses (T,) of the built-in rules


def learn_and_race(
    rules: dict[str, UpdateRule],
    learn_on: TaskFamily,
    race_on: TaskFamily,
    training: MetaConfig,
    horizon: int,
    seed: int,
    known: str = "",
) -> Evidence:
    """Meta-train each rule in place, and race all on held-out tasks for ``horizon`` inner steps.

    Returns {name: mean losses (T,)}. The rule called ``known`` is the same for every student, and
    so are the families. Its losses are computed once for each seed, and later calls leave it
    untrained. Exceptions of ``meta_train`` and ``race`` pass through.
    """
    losses = {}
    for name, rule in rules.items():
        key = (name, training, horizon, seed)
        if name == known and key in _KNOWN:
            losses[name] = _KNOWN[key]
            continue
        meta_train(rule, learn_on, replace(training, seed=seed))
        result = race({name: rule}, race_on, horizon, tasks=TASKS, seed=seed, baselines={})
        losses[name] = result.entries[name].score("mean")
        if name == known:
            _KNOWN[key] = losses[name]
    return losses


def judge_gain(plain: str, better: str, hint: str) -> Callable[[Evidence], Verdict]:
    """Return a judge of {name: mean losses (T,)}: ``better`` must beat ``plain``.

    It takes the mean over tasks of the difference of logarithms. That is a share of the loss, so no
    single task can dominate it.
    """

    def judge(evidence: Evidence) -> Verdict:
        gain = evidence[plain].double().log() - evidence[better].double().log()  # (T,)
        mean, error = gain.mean().item(), gain.std().item() / math.sqrt(len(gain))
        surely = f"{mean / error:.1f} standard errors" if error > 0 else "the same difference"
        with_it, without = (evidence[name].mean().item() for name in (better, plain))
        measured = (
            f"mean loss {with_it:.3f}, {plain} {without:.3f}: lower by"
            f" {1 - math.exp(-mean):.1%}, {surely} over {len(gain)} tasks"
        )
        return Verdict(mean > max(SURE * error, LEAST), measured, hint)

    return judge
