"""The race: a learned rule on held-out tasks, against optimizers tuned for the same horizon.

Letters: T tasks, K inner steps.
Source: a paired comparison has a matched-pairs standard error (Student 1908).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from nested.levels.forward import Batch, LossFn, Params
from nested.levels.lend import call_with, unchanged
from nested.levels.rule import UpdateRule
from nested.meta.baselines import (
    Draw,
    HandMade,
    Outcome,
    draw_tasks,
    run_hand_made,
    scheduled_sgd,
    tune,
)
from nested.meta.objective import scored_losses
from nested.meta.tuned import BASELINES, Grid
from nested.tasks.family import TaskFamily
from nested.unroll.batched import unroll_tasks
from nested.unroll.over_tasks import over_tasks


class Estimate(NamedTuple):
    """A mean over tasks and its standard error, in the unit of what was scored."""

    mean: float
    error: float


@dataclass(frozen=True)
class Entry:
    """One entrant's runs on T tasks, losses in the task's own unit."""

    losses: Tensor  # (T, K + 1): before the first update, and after each; the last on the query
    accuracy: Tensor | None  # (T,) share of query examples right, where the task is to classify
    signals: dict[str, Tensor]  # {name: (T, K, ...)} of a rule
    settings: str  # of a hand-made optimizer

    def score(self, name: str) -> Tensor:
        """Return one number a task, (T,): the score called ``name``.

        "mean" is the loss averaged over the K updates, "final" the loss after the last. "accuracy"
        exists where the task is to classify. Any other name raises ``ValueError``."""
        if name == "mean":
            return self.losses[:, 1:].mean(dim=1)
        if name == "final":
            return self.losses[:, -1]
        if name == "accuracy" and self.accuracy is not None:
            return self.accuracy
        raise ValueError(f"a race has mean, final and, to classify, accuracy, but not {name!r}")


@dataclass(frozen=True)
class RaceResult:
    """The runs of all entrants on the same tasks, weights and batches."""

    horizon: int
    entries: dict[str, Entry]
    tuned: dict[str, HandMade]  # the baselines, with the settings that won

    def estimate(self, name: str, score: str = "mean") -> Estimate:
        """Mean and standard error over tasks of "mean" loss, "final" loss or "accuracy". Raises
        ``KeyError`` for a name that did not race, ``ValueError`` for another score."""
        return _estimate(self.entries[name].score(score))

    def paired(self, name: str, other: str, score: str = "mean") -> Estimate:
        """The score of ``other`` minus that of ``name``, task by task.

        Raises as ``estimate`` does."""
        return _estimate(self.entries[other].score(score) - self.entries[name].score(score))

    def gain(self, name: str, other: str, score: str = "mean") -> float:
        """The share by which the mean of ``name`` is under that of ``other``: 0.2 is 20 % better.

        It is NaN where the mean of ``other`` is 0. Raises as ``estimate`` does."""
        theirs = self.estimate(other, score).mean
        return 1 - self.estimate(name, score).mean / theirs if theirs else math.nan

    def curve(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and standard error over tasks of the loss, (K + 1,) each: before the first update,
        and after each. Raises ``KeyError`` for a name that did not race."""
        losses = self.entries[name].losses
        return losses.mean(dim=0), losses.std(dim=0) / math.sqrt(len(losses))

    def summary(self, name: str) -> dict[str, Any]:
        """The numbers of the race as plain data, with all differences paired against ``name``.

        Raises ``KeyError`` for a name that did not race."""
        rows = {}
        for other, entry in self.entries.items():
            curve, errors = self.curve(other)
            rows[other] = {
                "mean": self.estimate(other)._asdict(),
                "final": self.estimate(other, "final")._asdict(),
                "accuracy": (
                    entry.accuracy if entry.accuracy is None else entry.accuracy.mean().item()
                ),
                "settings": entry.settings,
                "mean_above_rule": self.paired(name, other)._asdict(),
                "final_above_rule": self.paired(name, other, "final")._asdict(),
                "curve": curve.tolist(),
                "curve_error": errors.tolist(),
            }
        return {"horizon": self.horizon, "tasks": len(self.entries[name].losses), "entries": rows}


def race(
    entrants: Mapping[str, UpdateRule | HandMade],
    family: TaskFamily,
    horizon: int,
    *,
    tasks: int = 128,
    tuning_tasks: int = 32,
    seed: int = 0,
    baselines: Mapping[str, Grid] = BASELINES,
    tuned_for: str = "mean",
    replay: Collection[str] | None = None,
    on_entry: Callable[[str], None] | None = None,
) -> RaceResult:
    """Race ``entrants`` and ``baselines`` for ``horizon`` inner steps on ``tasks`` held-out tasks.

    Each baseline is a function from the horizon to its candidates. It is tuned on ``tuning_tasks``
    tasks of ``family`` for this horizon, for its "mean" or "final" loss: see ``tune``. Then all
    entrants run on the same tasks of ``family.held_out()``.

    A rule with signals ``lr`` and ``momentum`` also races its average schedule, as "<name>,
    replayed". That is SGD with the rule's lr (geometric mean over tasks) and momentum, blind to the
    losses. ``replay`` names the rules to replay: all by default. ``on_entry`` gets a text before
    each tuning and each run.

    Raises ``ValueError`` for a horizon or a number of tasks that is too small, an entrant named as
    a baseline, or another ``tuned_for``. Raises ``TypeError`` for entrants that are no dict.
    """
    _check(entrants, baselines, horizon=horizon, tasks=tasks, tuning_tasks=tuning_tasks)
    say = on_entry or (lambda name: None)
    if baselines:
        tuning_draw = draw_tasks(family, tuning_tasks, horizon, _generator(seed, "tuning"))
    tuned = {}
    for name, grid in baselines.items():
        say(f"tuning {name} for {horizon} steps")
        tuned[name] = tune(grid(horizon), tuning_draw, tuned_for)
    draw = draw_tasks(family.held_out(), tasks, horizon, _generator(seed, "race"))
    rules = {name: e for name, e in entrants.items() if isinstance(e, UpdateRule)}
    entries = {}  # rules, baselines, then the other hand-made ones
    for name, entrant in {**rules, **tuned, **entrants}.items():
        say(f"racing {name} for {horizon} steps")
        if isinstance(entrant, HandMade):
            entries[name] = _race_hand_made(entrant, draw)
            continue
        entries[name] = entry = _race_rule(entrant, draw)
        if _is_schedule(entry.signals) and (replay is None or name in replay):
            entries[f"{name}, replayed"] = _race_hand_made(own_schedule(entry), draw)
    return RaceResult(horizon, entries, tuned)


def _check(entrants: Mapping, baselines: Mapping, **counts: int) -> None:
    for name, count in counts.items():
        least = 2 if name == "tasks" else 1  # a standard error needs two
        if not isinstance(count, int) or count < least:
            raise ValueError(f"{name} is a whole number from {least}, but got {count!r}")
    if not isinstance(entrants, Mapping):
        raise TypeError(
            f"entrants is a dict from names to rules, but got {type(entrants).__name__}"
        )
    if entrants.keys() & baselines.keys():
        raise ValueError(f"{sorted(entrants.keys() & baselines.keys())} are names of baselines")


def _is_schedule(signals: dict[str, Tensor]) -> bool:
    """Whether a rule's signals are one rate and one momentum for all weights, (T, K) each."""
    return {"lr", "momentum"} <= signals.keys() and signals["lr"].dim() == 2


def own_schedule(entry: Entry) -> HandMade:
    """Average a rule's signals lr and momentum, (T, K), over tasks: a blind schedule for SGD.

    Raises ``KeyError`` for a rule without these signals."""
    lrs = entry.signals["lr"].log().mean(dim=0).exp()
    return scheduled_sgd(lrs.tolist(), entry.signals["momentum"].mean(dim=0).tolist())


def _race_rule(rule: UpdateRule, draw: Draw) -> Entry:
    rule = rule.for_horizon(len(draw.batches))
    run = unroll_tasks(draw.loss_fn, draw.params, draw.batches, rule, differentiable=False)
    with torch.no_grad():
        after = scored_losses(draw.loss_fn, run, draw.query)
    losses = torch.cat([run.losses[:, :1], after], dim=1)
    return Entry(losses.cpu(), _accuracy(draw, run.params), _on_cpu(run.signals), "")


def _race_hand_made(entrant: HandMade, draw: Draw) -> Entry:
    outcome: Outcome = run_hand_made([entrant], draw)
    params = {name: p[0] for name, p in outcome.params.items()}
    return Entry(outcome.losses[0].cpu(), _accuracy(draw, params), {}, entrant.describe())


@torch.no_grad()
def _accuracy(draw: Draw, params: Params) -> Tensor | None:
    """(T,) share of the query batch classified right; None where the task is something else."""
    loss_fn: LossFn = draw.loss_fn
    query: Batch = draw.query
    is_pair = isinstance(query, (tuple, list)) and all(isinstance(x, Tensor) for x in query)
    if not hasattr(loss_fn, "model") or not is_pair or query[1].is_floating_point():
        return None
    predict = over_tasks(lambda p, inputs: call_with(loss_fn.model, p, inputs))
    with unchanged(loss_fn.model.modules()):
        guesses = predict(params, query[0]).argmax(dim=-1)
    return (guesses.flatten(1) == query[1].flatten(1)).float().mean(dim=1).cpu()


def _on_cpu(signals: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: signal.cpu() for name, signal in signals.items()}


def _estimate(values: Tensor) -> Estimate:
    values = values.double()
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def _generator(seed: int, purpose: str) -> Generator:
    """One stream for each purpose: neither draws the tasks of meta-training, or of the other."""
    offset = {"tuning": 2**31, "race": 2**31 + 2**30}[purpose]
    return Generator().manual_seed(offset + seed % 2**30)
