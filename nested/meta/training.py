"""Learning level 4: draw tasks, move level 4 by a window of their runs, and again.

Letters: T tasks, K inner steps. Source: Andrychowicz et al. 2016 (arXiv 1606.04474); truncated
windows that carry the inner run on, and random horizons, as in Metz et al. 2019 (arXiv 1810.10180).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator

from nested.levels.forward import Params, State
from nested.levels.rule import UpdateRule
from nested.meta.augmentation import Rescaled
from nested.meta.config import MetaConfig
from nested.meta.evolution import EvolutionStep, paired
from nested.meta.meta_step import MetaStep
from nested.support.files import load_checkpoint, save_checkpoint
from nested.tasks.family import Task, TaskFamily, draw_log_uniform
from nested.tasks.stack import stack_batch, stack_init
from nested.unroll.inputs import check_data
from nested.unroll.over_tasks import over_tasks

FORMAT = 1  # of the checkpoint
SECONDS_BETWEEN_SAVES = 2.0  # at least; the numbers do not depend on it


class MetaRecord(NamedTuple):
    """One meta-step, as plain numbers: losses in the task's unit, norms in loss per unit of
    rule."""

    step: int  # meta-step, from 1
    inner_step: int  # inner steps the runs had made before this window
    meta_loss: float
    grad_norm: float  # of the hypergradient, before clipping
    skipped: bool  # the hypergradient was not finite, so level 4 did not move
    signals: dict[str, float]  # mean over tasks and steps


@dataclass
class MetaHistory:
    """What happened, one ``MetaRecord`` per meta-step."""

    records: list[MetaRecord] = field(default_factory=list)

    @property
    def skipped(self) -> int:
        """How many updates were skipped because the hypergradient was not finite."""
        return sum(record.skipped for record in self.records)


class MetaTrainingError(RuntimeError):
    """Meta-training cannot go on: too many hypergradients in a row were not finite."""


@dataclass
class _Runs:
    """T inner runs on their way: they go on from window to window until their horizon."""

    tasks: Sequence[Task]
    params: Params  # {name: (T, ...)}
    state: State
    made: int  # inner steps so far
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
    start. Of several families, one is drawn for each T runs. ``config.groups`` sets of runs take
    turns. ``on_step`` is called with the history after each meta-step.

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
    if resume and checkpoint is None:
        raise ValueError("resume needs the checkpoint to go on from")
    training = _Training(rule, family, config)
    if resume and Path(checkpoint).exists():
        training.restore(load_checkpoint(checkpoint))
    groups, between_runs, saved_at = [], training.snapshot(), -math.inf
    try:
        while len(training.history.records) < config.meta_steps:
            if not groups:
                between_runs = training.snapshot()
                if checkpoint is not None and time.monotonic() > saved_at + SECONDS_BETWEEN_SAVES:
                    _save(checkpoint, between_runs)
                    saved_at = time.monotonic()
                groups = [training.start_runs() for _ in range(config.groups)]
            runs = groups.pop(training.choose(groups))
            groups += training.step(runs)
            if on_step is not None:
                on_step(training.history)
    except (KeyboardInterrupt, MetaTrainingError):
        if checkpoint is not None:
            _save(checkpoint, between_runs)
        raise
    if checkpoint is not None:
        _save(checkpoint, training.snapshot())
    return training.history


class _Training:
    """Everything that moves during meta-training, except the inner runs."""

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
        self.shown = Rescaled(rule) if config.rescale > 1 else rule
        self.generator = Generator().manual_seed(config.seed)
        is_pes = config.estimator == "pes"
        self.move = (
            EvolutionStep(self.shown, config, self.generator)
            if is_pes
            else MetaStep(self.shown, config)
        )
        self.together = paired if is_pes else lambda tree: tree  # antithetic pairs share all
        self.count = config.tasks // 2 if is_pes else config.tasks
        self.history = MetaHistory()

    def start_runs(self) -> _Runs:
        family = self.families[0]
        if len(self.families) > 1:
            chosen = torch.randint(len(self.families), (), generator=self.generator).item()
            family = self.families[chosen]
        self.move.begin()
        tasks = [family.sample(self.generator) for _ in range(self.count)]
        horizon = self._windows() * self.config.unroll_length
        params = self.together(stack_init(tasks, self.generator))
        told = self.shown.for_horizon(horizon)
        if isinstance(told, Rescaled):
            state = told.start(params, self.config.rescale, self.generator)
        else:
            state = over_tasks(told.init)(params)
        return _Runs(tasks, params, state, 0, horizon)

    def _windows(self) -> int:
        """How many windows the next runs will have."""
        most = self.config.max_horizon // self.config.unroll_length
        if self.config.horizons == "log-uniform":
            return int(draw_log_uniform(1, most + 1, self.generator))
        return torch.randint(1, most + 1, (), generator=self.generator).item()

    def choose(self, groups: Sequence[_Runs]) -> int:
        """Which group is next: the more it has before it, the likelier, so that early and late
        windows of short and long runs come mixed."""
        left = torch.tensor([runs.horizon - runs.made for runs in groups], dtype=torch.float32)
        return 0 if len(left) == 1 else left.multinomial(1, generator=self.generator).item()

    def step(self, runs: _Runs) -> list[_Runs]:
        """Make one meta-step on ``runs``; return them moved on, or [] at their end."""
        config, loss_fn = self.config, runs.tasks[0].loss
        draws = ["train"] * config.unroll_length + ["query"]
        drawn = [self.together(stack_batch(runs.tasks, self.generator, split)) for split in draws]
        batches, query = drawn[:-1], drawn[-1]
        done = len(self.history.records) / config.meta_steps
        self.move.set_rate(config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))))
        moved = self.move(loss_fn, runs.params, runs.state, batches, query)
        numbers = torch.stack([moved.loss, moved.norm, *moved.signals.values()]).tolist()
        loss, norm, *signals = numbers  # the only ones that the host waits for
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        record = MetaRecord(
            step=len(self.history.records) + 1,
            inner_step=runs.made,
            meta_loss=loss,
            grad_norm=norm,
            skipped=skipped,
            signals=dict(zip(moved.signals, signals)),
        )
        self.history.records.append(record)
        if skipped:
            check_data(batches, moved.loss)
            check_data([query], moved.loss, "the query batch")
            self._stop_if_stuck()
            return []
        made = runs.made + config.unroll_length
        moved_on = _Runs(runs.tasks, moved.params, moved.state, made, runs.horizon)
        return [moved_on] if made < runs.horizon else []

    def _stop_if_stuck(self) -> None:
        last = self.history.records[-self.config.max_skips :]
        if len(last) == self.config.max_skips and all(record.skipped for record in last):
            raise MetaTrainingError(
                f"{len(last)} hypergradients in a row were not finite, the last at meta-step"
                f" {last[-1].step}: start anew, in another folder, with a lower lr or unroll"
                " length; the rule is as it was before them"
            )

    def snapshot(self) -> dict[str, Any]:
        """Everything needed to go on from here, between runs, as data."""
        content = {
            "format": FORMAT,
            "made_for": self._made_for(),
            "rule": self.rule.state_dict(),
            "optimizer": self.move.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        return {**copy.deepcopy(content), "history": list(self.history.records)}

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a snapshot; raises ``ValueError`` unless it was made for the same training."""
        if content.get("format") != FORMAT:
            raise ValueError(f"the checkpoint has format {content.get('format')}, not {FORMAT}")
        made_for = copy.deepcopy(content.get("made_for", {}))
        planned = made_for.get("config", {}).get("meta_steps", 0)
        if planned < self.config.meta_steps:  # the same training, made longer
            made_for.get("config", {})["meta_steps"] = self.config.meta_steps
        for what, ours in self._made_for().items():
            theirs = made_for.get(what)
            if theirs != ours:
                raise ValueError(
                    f"the checkpoint was made with another {what}: {_difference(theirs, ours)};"
                    " use the same settings, or another folder"
                )
        try:
            records = [MetaRecord(*record) for record in content["history"]]
            copy.deepcopy(self.rule).load_state_dict(content["rule"])  # before anything is changed
            self.generator.set_state(content["generator"])
            optimizer = self.move.optimizer  # its settings are this device's, not the file's
            own = {"param_groups": optimizer.state_dict()["param_groups"]}
            optimizer.load_state_dict({**content["optimizer"], **own})
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError("the checkpoint lacks parts of a meta-training; delete it") from error
        self.rule.load_state_dict(content["rule"])
        self.history.records = records

    def _made_for(self) -> dict[str, Any]:
        shapes = {n: f"{tuple(p.shape)} {p.dtype}" for n, p in self.rule.state_dict().items()}
        return {
            "rule": {"class": type(self.rule).__name__, **_settings(self.rule), **shapes},
            "family": {
                name + f" of family {i}" * (i > 0): value
                for i, family in enumerate(self.families)
                for name, value in {"class": type(family).__name__, **_settings(family)}.items()
            },
            "config": asdict(self.config),
        }


def _settings(part: UpdateRule | TaskFamily) -> dict[str, str]:
    """The plain public attributes of a rule or family, as text; its device may change on resume."""

    def text(value: Any) -> str:  # a function, such as a feature, by its name, not its address
        if isinstance(value, tuple):
            return f"({', '.join(map(text, value))})"
        return getattr(value, "__qualname__", None) or repr(value)

    plain = (int, float, str, tuple, dict, torch.dtype)
    return {
        name: text(value)
        for name, value in vars(part).items()
        if isinstance(value, plain) and name not in ("device", "training") and name[0] != "_"
    }


def _save(path: Path | str, snapshot: dict[str, Any]) -> None:
    history = [tuple(record) for record in snapshot["history"]]  # no class of ours in the file
    save_checkpoint(path, {**snapshot, "history": history})


def _difference(theirs: dict[str, Any] | None, ours: dict[str, Any]) -> str:
    theirs = theirs or {}
    for key in [*ours, *theirs]:
        if theirs.get(key) != ours.get(key):
            return f"its {key} is {theirs.get(key)}, here it is {ours.get(key)}"
    return "it is not the same"
