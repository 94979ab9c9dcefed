"""Learning level 4: draw tasks, move level 4 by a window of their runs, and again.

Letters: T tasks, K inner steps. Source: Andrychowicz et al. 2016 (arXiv 1606.04474); truncated
windows that carry the inner run on, and random horizons, as in Metz et al. 2019 (arXiv 1810.10180).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from nested.levels.forward import Params, State
from nested.levels.rule import UpdateRule
from nested.meta.checkpoint import restore, snapshot
from nested.meta.config import MetaConfig
from nested.meta.evolution import EvolutionStep, repeat_for_pairs
from nested.meta.history import MetaHistory, MetaRecord
from nested.meta.meta_step import MetaStep
from nested.support.files import load_checkpoint, save_checkpoint
from nested.tasks.family import Task, TaskFamily
from nested.tasks.stack import stack_batch, stack_init
from nested.unroll.inputs import check_data
from nested.unroll.over_tasks import over_tasks

SECONDS_BETWEEN_SAVES = 2.0  # at least; the numbers do not depend on it


class MetaTrainingError(RuntimeError):
    """Meta-training cannot go on: too many hypergradients in a row were not finite."""


@dataclass
class Runs:
    """T inner runs, which continue from window to window until their horizon."""

    tasks: Sequence[Task]
    params: Params  # {name: (T, ...)}
    state: State
    steps_done: int  # inner steps so far
    horizon: int


def meta_train(
    rule: UpdateRule,
    family: TaskFamily | Sequence[TaskFamily],
    config: MetaConfig = MetaConfig(),
    *,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    on_step: Callable[[MetaHistory], None] | None = None,
) -> MetaHistory:
    """Train ``rule``, in place, to lower the meta-loss on tasks of ``family``.

    Each meta-step unrolls T = ``config.tasks`` runs for K = ``config.unroll_length`` inner steps
    and moves the rule once. The runs continue, detached, until a random horizon; then fresh tasks
    start. Of several families, one is drawn for each T runs. ``on_step`` is called with the history
    after each meta-step.

    With ``checkpoint`` (a file) progress is saved when all runs have ended, at most every two
    seconds, and when interrupted. ``resume=True`` continues from that file if it exists, and ends
    with the same numbers as a run that was never stopped. With more ``meta_steps`` than the file's
    run had, it goes on to that number: fresh runs start, and the learning rate follows the longer
    cosine.

    Raises ``TypeError`` for a rule or family of the wrong kind. Raises ``ValueError`` for a rule
    with nothing to learn, for a meta-loss that does not depend on it, and for data that are not
    finite. The same holds for a checkpoint that cannot be read or was made for something else, and
    for ``resume`` without a checkpoint. Raises ``MetaTrainingError`` after
    ``config.max_skips`` skipped updates in a row.
    """
    return run_training(Training(rule, family, config), checkpoint, resume, on_step)


def run_training(
    training: Training,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    on_step: Callable[[MetaHistory], None] | None = None,
) -> MetaHistory:
    """Make the meta-steps of ``training`` that are left.

    The arguments are those of ``meta_train``. So are the errors: ``ValueError`` and
    ``MetaTrainingError``.
    """
    if resume and checkpoint is None:
        raise ValueError("resume needs the checkpoint to go on from")
    if resume and Path(checkpoint).exists():
        restore(training, load_checkpoint(checkpoint))
    groups, between_runs, saved_at = [], snapshot(training), -math.inf
    try:
        while len(training.history.records) < training.config.meta_steps:
            if not groups:
                between_runs = snapshot(training)
                if checkpoint is not None and time.monotonic() > saved_at + SECONDS_BETWEEN_SAVES:
                    save_checkpoint(checkpoint, between_runs)
                    saved_at = time.monotonic()
                groups = training.start_groups()
            runs = groups.pop(training.choose(groups))
            groups += training.step(runs)
            if on_step is not None:
                on_step(training.history)
    except (KeyboardInterrupt, MetaTrainingError):
        if checkpoint is not None:
            save_checkpoint(checkpoint, between_runs)
        raise
    if checkpoint is not None:
        save_checkpoint(checkpoint, snapshot(training))
    return training.history


class Training:
    """Everything that moves during meta-training, except the inner runs.

    Raises ``TypeError`` for a rule or family of the wrong kind, and ``ValueError`` for a rule with
    nothing to learn.
    """

    def __init__(
        self, rule: UpdateRule, family: TaskFamily | Sequence[TaskFamily], config: MetaConfig
    ) -> None:
        families = list(family) if isinstance(family, (list, tuple)) else [family]
        if not isinstance(rule, UpdateRule) or not all(isinstance(f, TaskFamily) for f in families):
            got = f"{type(rule).__name__} and {', '.join(type(f).__name__ for f in families)}"
            raise TypeError(f"meta_train takes an UpdateRule and a TaskFamily, but got {got}")
        if not families:
            raise ValueError("meta_train takes one family or more, but got an empty list")
        self.rule, self.families, self.config = rule, families, config
        self.generator = Generator().manual_seed(config.seed)
        self.is_pes = config.estimator == "pes"
        self.num_tasks = config.tasks // 2 if self.is_pes else config.tasks
        self.meta_step = self.make_meta_step()
        self.history = MetaHistory()

    def make_meta_step(self) -> MetaStep:
        """Return what moves the rule."""
        if self.is_pes:
            return EvolutionStep(self.rule, self.config, self.generator)
        return MetaStep(self.rule, self.config)

    def start_groups(self) -> list[Runs]:
        """Start the sets of T runs that take turns: here one set."""
        return [self.start_runs()]

    def choose(self, groups: Sequence[Runs]) -> int:
        """Return the index of the set whose turn it is."""
        return 0

    def draw_windows(self) -> int:
        """Draw how many windows the next runs will have."""
        most = self.config.max_horizon // self.config.unroll_length
        return torch.randint(1, most + 1, (), generator=self.generator).item()

    def first_state(self, params: Params, horizon: int) -> State:
        """Return the rule's first state, tensors (T, ...), for T runs of ``horizon`` steps from
        ``params``."""
        return over_tasks(self.rule.for_horizon(horizon).init)(params)

    def start_runs(self) -> Runs:
        """Draw T tasks of one family, and start a run on each."""
        family = self.families[0]
        if len(self.families) > 1:
            chosen = torch.randint(len(self.families), (), generator=self.generator).item()
            family = self.families[chosen]
        self.meta_step.begin()
        tasks = [family.sample(self.generator) for _ in range(self.num_tasks)]
        horizon = self.draw_windows() * self.config.unroll_length
        params = self._for_pairs(stack_init(tasks, self.generator))
        return Runs(tasks, params, self.first_state(params, horizon), 0, horizon)

    def _for_pairs(self, tree: Any) -> Any:
        return repeat_for_pairs(tree) if self.is_pes else tree  # antithetic pairs share their task

    def step(self, runs: Runs) -> list[Runs]:
        """Make one meta-step on ``runs``. Returns them one window further, or [] at their end."""
        config, loss_fn = self.config, runs.tasks[0].loss
        splits = ["train"] * config.unroll_length + ["query"]
        drawn = [self._for_pairs(stack_batch(runs.tasks, self.generator, s)) for s in splits]
        batches, query = drawn[:-1], drawn[-1]
        done = len(self.history.records) / config.meta_steps
        self.meta_step.set_rate(config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))))
        result = self.meta_step(loss_fn, runs.params, runs.state, batches, query)
        numbers = torch.stack([result.loss, result.norm, *result.signals.values()])
        loss, norm, *signals = numbers.tolist()
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        step, chosen = len(self.history.records) + 1, dict(zip(result.signals, signals))
        self.history.records.append(MetaRecord(step, runs.steps_done, loss, norm, skipped, chosen))
        if skipped:
            check_data(batches, result.loss)
            check_data([query], result.loss, "the query batch")
            self._stop_if_stuck()
            return []
        steps_done = runs.steps_done + config.unroll_length
        further = Runs(runs.tasks, result.params, result.state, steps_done, runs.horizon)
        return [further] if steps_done < runs.horizon else []

    def _stop_if_stuck(self) -> None:
        last = self.history.records[-self.config.max_skips :]
        if len(last) == self.config.max_skips and all(record.skipped for record in last):
            raise MetaTrainingError(
                f"{len(last)} hypergradients in a row were not finite, the last at meta-step"
                f" {last[-1].step}: start anew, in another folder, with a lower lr or unroll"
                " length; the rule is as it was before them"
            )
