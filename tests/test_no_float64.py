"""Nothing that runs on a device needs float64: Apple's GPUs have none."""

import pytest
import torch
from torch import nn

from nested import MetaConfig, MetaOptimizer, functional_loss, meta_train, unroll, unroll_tasks
from nested.meta.baselines import draw_tasks, run_hand_made, tune
from nested.meta.tuned import BASELINES, TUNED
from nested.rules import CoordinatewiseRule
from nested.tasks import Digits, SumRegression
from tests.no_float64 import NoFloat64
from tests.problems import generator, repeat_tasks

RULES = {"meta": MetaOptimizer, "coordinatewise": CoordinatewiseRule}


def test_the_mode_refuses_float64():
    with NoFloat64(), pytest.raises(AssertionError, match="float64"):
        torch.ones(2).double()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("many", [False, True])
def test_unrolls_and_their_hypergradients(rule, many):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    params = {name: p.detach() for name, p in model.named_parameters()}
    batches = [(torch.randn(5, 3), torch.randn(5, 2)) for _ in range(3)]
    if many:
        params, batches = repeat_tasks(params), repeat_tasks(batches)
    rule = RULES[rule]()
    with NoFloat64():
        run = (unroll_tasks if many else unroll)(
            functional_loss(model, nn.functional.mse_loss), params, batches, rule
        )
        run.losses[..., -1].sum().backward()


@pytest.mark.parametrize("estimator", ["gradient", "pes"])
def test_meta_training(estimator):
    config = MetaConfig(meta_steps=2, unroll_length=2, max_horizon=4, tasks=2, estimator=estimator)
    with NoFloat64():
        meta_train(MetaOptimizer(), SumRegression(), config)


@pytest.mark.parametrize("name", TUNED)
def test_tuned_baselines(name):
    draw = draw_tasks(Digits(), 2, 20, generator())
    with NoFloat64():
        for what in ("mean", "final"):
            run_hand_made([tune(TUNED[name](20)[::7], draw, what)], draw)
        tune(BASELINES["Adam"](20)[::7], draw, "final")
