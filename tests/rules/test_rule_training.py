"""Training of rules: sets of runs take turns, hypergradients that explode count for less."""

import math

import pytest
import torch

from nested import MetaOptimizer
from nested.meta.training import run_training
from nested.rules.rule_training import RuleConfig, RuleTraining
from nested.tasks import Quadratics
from tests.problems import generator

SMALL = RuleConfig(meta_steps=12, unroll_length=3, max_horizon=9, tasks=4)


def trained(config, **how):
    rule = MetaOptimizer(generator=generator(config.seed))
    return run_training(RuleTraining(rule, Quadratics(), config), **how)


def test_groups_of_runs_are_moved_on_in_mixed_order_each_to_its_horizon():
    many = RuleConfig(meta_steps=60, unroll_length=2, max_horizon=20, tasks=1, groups=4)
    history = trained(many)
    at = [record.inner_step for record in history.records]
    started = [i for i, steps in enumerate(at) if steps == 0]
    assert len(started) >= 8 and any(b == a + 1 for a, b in zip(started, started[1:]))
    jumps = sum(b not in (0, a + 2) for a, b in zip(at, at[1:]))
    assert jumps > 10  # one group at a time: the next window, or a start
    alone = trained(RuleConfig(**{**vars(many), "groups": 1}))
    at = [record.inner_step for record in alone.records]
    assert all(b in (0, a + 2) for a, b in zip(at, at[1:]))


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.5), (5.0, 1.0), (10.0, 1.0), (40.0, 0.25)])
def test_a_hypergradient_that_explodes_counts_for_less_the_longer_it_is(before, after):
    config = RuleConfig(**{**vars(SMALL), "clip": 1.0, "explode_at": 10.0})
    step = RuleTraining(MetaOptimizer(), Quadratics(), config).meta_step
    grads = [torch.randn(p.shape, generator=generator(i)) for i, p in enumerate(step.learned)]
    length = torch.cat([g.flatten() for g in grads]).norm()
    norm = step.clip(tuple(g * before / length for g in grads))
    assert norm.item() == pytest.approx(before, rel=1e-5)
    kept = torch.cat([p.grad.flatten() for p in step.learned]).norm().item()
    assert kept == pytest.approx(after, rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"groups": 0}, "groups is a whole number from 1"),
        ({"estimator": "pes", "tasks": 4}, "trained by the estimator 'gradient', but got 'pes'"),
        ({"explode_at": 0.0}, "explode_at is a number above 0, but got 0.0"),
        ({"random_rescale": 0.5}, "random_rescale is a finite number from 1, but got 0.5"),
        ({"random_rescale": math.inf}, "random_rescale is a finite number from 1"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RuleConfig(**wrong)


@pytest.mark.parametrize("stop_after", [1, 7])
def test_an_interrupted_training_resumes_to_the_same_bits(tmp_path, stop_after):
    config = RuleConfig(**{**vars(SMALL), "groups": 3, "random_rescale": 1.5})
    whole = trained(config)

    def stop(history):
        if len(history.records) == stop_after:
            raise KeyboardInterrupt

    path = tmp_path / "rule.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(config, checkpoint=path, on_step=stop)
    assert trained(config, checkpoint=path, resume=True).records == whole.records
