"""Meta-training for rules that should work on many nets and lengths of runs.

Letters: T tasks. Source: random horizons as in Metz et al. 2019 (arXiv 1810.10180); rescaled
weights as augmentation are Celo's (arXiv 2501.12670).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nested.levels.forward import Params, State
from nested.meta.config import MetaConfig
from nested.meta.meta_step import MetaStep
from nested.meta.training import Runs, Training
from nested.rules.augmentation import Rescaled
from nested.tasks.family import draw_log_uniform


@dataclass(frozen=True)
class RuleConfig(MetaConfig):
    """Settings of ``RuleTraining``, beside those of ``MetaConfig``. A value that is not allowed
    raises ``ValueError`` at once."""

    groups: int = 1  # sets of T runs that take turns
    explode_at: float = math.inf  # longer hypergradients shrink further, in proportion
    random_rescale: float = 1.0  # train on weights rescaled by factors up to this: see Rescaled

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.groups) is not int or self.groups < 1:
            raise ValueError(f"groups is a whole number from 1, but got {self.groups!r}")
        if self.estimator != "gradient":
            raise ValueError(
                f"rules are trained by the estimator 'gradient', but got {self.estimator!r}"
            )
        if not self.explode_at > 0:
            raise ValueError(f"explode_at is a number above 0, but got {self.explode_at}")
        if not 1 <= self.random_rescale < math.inf:
            raise ValueError(
                f"random_rescale is a finite number from 1, but got {self.random_rescale}"
            )


class RuleTraining(Training):
    """A ``Training`` whose runs have log-uniform lengths. Several sets of runs take turns, so that
    early and late windows of short and long runs come mixed. Raises as ``Training`` does."""

    config: RuleConfig

    def make_meta_step(self) -> MetaStep:
        rule = Rescaled(self.rule) if self.config.random_rescale > 1 else self.rule
        return _CautiousStep(rule, self.config)

    def first_state(self, params: Params, horizon: int) -> State:
        rule = self.meta_step.rule.for_horizon(horizon)
        if isinstance(rule, Rescaled):
            return rule.start(params, self.config.random_rescale, self.generator)
        return super().first_state(params, horizon)

    def start_groups(self) -> list[Runs]:
        return [self.start_runs() for _ in range(self.config.groups)]

    def choose(self, groups: Sequence[Runs]) -> int:
        """Draw the set whose turn it is: the more steps are left to it, the likelier."""
        left = [float(runs.horizon - runs.steps_done) for runs in groups]
        weights = torch.tensor(left, dtype=torch.float32)
        return 0 if len(left) == 1 else weights.multinomial(1, generator=self.generator).item()

    def draw_windows(self) -> int:
        most = self.config.max_horizon // self.config.unroll_length
        return int(draw_log_uniform(1, most + 1, self.generator))


class _CautiousStep(MetaStep):
    """Hypergradients longer than ``explode_at`` count for less, the longer they are."""

    config: RuleConfig

    def clip(self, grads: tuple[Tensor | None, ...]) -> Tensor:
        norm = super().clip(grads)
        if norm > self.config.explode_at:
            for grad in grads:
                if grad is not None:
                    grad.mul_(self.config.explode_at / norm)
        return norm
