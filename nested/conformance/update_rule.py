"""Check an update rule against the contract of ``nested.UpdateRule``.

Source: the contract in ``nested.levels.rule``, and what the unroll relies on.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Generator

from nested.conformance.check import Check, Evidence, Result, Verdict, require, run_check
from nested.conformance.rule_basics import BASIC_CHECKS
from nested.conformance.rule_gradients import GRADIENT_CHECKS
from nested.levels.rule import UpdateRule
from nested.meta.baselines import draw_tasks
from nested.meta.config import MetaConfig
from nested.meta.objective import meta_loss
from nested.meta.training import meta_train
from nested.tasks.sum_regression import SumRegression
from nested.unroll.batched import unroll_tasks

BRIEFLY = MetaConfig(meta_steps=40, unroll_length=8, max_horizon=8, tasks=8, lr=0.02)


def check_update_rule(rule: UpdateRule, seed: int = 0) -> list[Result]:
    """Check that ``rule`` keeps the contract of an update rule. The rule itself is not changed.

    All checks run on copies of it. The last one meta-trains a copy on sum regressions. The others
    use a small problem with a scalar, a vector, a matrix and an unused weight, drawn from ``seed``.
    Returns the results of ``UPDATE_RULE_CHECKS``. Raises ``ConformanceError``, with one line for
    each check that failed.
    """
    results = [run_check(check, rule, seed) for check in UPDATE_RULE_CHECKS]
    require(results, type(rule).__name__)
    return results


def _probe_learning(rule: UpdateRule, seed: int) -> Evidence:
    """Compute the meta-loss on held-out sum regressions, before and after 40 meta-steps."""
    learner, family = copy.deepcopy(rule).float(), SumRegression()
    before = _held_out_loss(learner, family, seed)
    meta_train(learner, family, replace(BRIEFLY, seed=seed))
    return {"before": before, "after": _held_out_loss(learner, family, seed)}


@torch.no_grad()
def _held_out_loss(rule: UpdateRule, family: SumRegression, seed: int) -> float:
    generator = Generator().manual_seed(1000 + seed)
    draw = draw_tasks(family.held_out(), 64, BRIEFLY.unroll_length, generator)
    run = unroll_tasks(draw.loss_fn, draw.params, draw.batches, rule, differentiable=False)
    return meta_loss(draw.loss_fn, run, draw.query).item()


def _judge_learning(evidence: Evidence) -> Verdict:
    before, after = evidence["before"], evidence["after"]
    hint = "does the meta-loss depend on the rule, and can its first weights still improve?"
    return Verdict(after < 0.98 * before, f"held-out meta-loss {before:.3f} -> {after:.3f}", hint)


UPDATE_RULE_CHECKS = [
    *BASIC_CHECKS,
    *GRADIENT_CHECKS,
    Check("briefly meta-trained it improves", _probe_learning, _judge_learning),
]
