"""A rule in other units against the same net written in those units."""

import pytest
import torch
from torch import nn

from nested import MetaOptimizer, functional_loss, unroll, unroll_tasks
from nested.conformance import check_update_rule
from nested.meta.training import run_training
from nested.rules import CoordinatewiseRule
from nested.rules.augmentation import Rescaled
from nested.rules.rule_training import RuleConfig, RuleTraining
from nested.tasks import Digits
from tests.problems import generator

UNITS = {"weight": 3.0, "bias": 0.2}


class InUnits(nn.Module):
    """A linear layer written with ``s w`` in the place of ``w``."""

    def __init__(self, layer):
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach() / UNITS["weight"])
        self.bias = nn.Parameter(layer.bias.detach() / UNITS["bias"])

    def forward(self, x):
        return nn.functional.linear(x, UNITS["weight"] * self.weight, UNITS["bias"] * self.bias)


@pytest.mark.parametrize("make", (CoordinatewiseRule, MetaOptimizer))
def test_it_trains_a_net_as_the_rule_trains_the_net_written_in_those_units(make):
    g = generator(0)
    layer = nn.Linear(4, 3, dtype=torch.float64)
    batches = [
        (torch.randn(8, 4, generator=g, dtype=torch.float64), torch.randint(3, (8,), generator=g))
        for _ in range(6)
    ]
    rule = make().double()
    params = dict(layer.named_parameters())
    state = Rescaled(rule.for_horizon(6)).init(params)
    state["scale"] = {name: torch.tensor(s, dtype=torch.float64) for name, s in UNITS.items()}
    loss_fn = functional_loss(layer, nn.functional.cross_entropy)
    ours = unroll(loss_fn, params, batches, Rescaled(rule), state)
    written = InUnits(layer)
    other = functional_loss(written, nn.functional.cross_entropy)
    theirs = unroll(other, dict(written.named_parameters()), batches, rule)
    assert torch.allclose(ours.losses, theirs.losses, rtol=1e-10)
    for name, unit in UNITS.items():
        assert torch.allclose(ours.params[name], unit * theirs.params[name], rtol=1e-8, atol=1e-12)
    got = torch.autograd.grad(ours.losses[-1], list(rule.parameters()), allow_unused=True)
    wanted = torch.autograd.grad(theirs.losses[-1], list(rule.parameters()), allow_unused=True)
    for one, other in zip(got, wanted):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-6, atol=1e-10)
    plain = unroll(loss_fn, params, batches, rule)
    assert not torch.allclose(ours.losses, plain.losses, rtol=1e-3)  # units matter to these rules


def test_it_is_an_update_rule_and_is_told_its_horizon_by_way_of_the_rule():
    check_update_rule(Rescaled(CoordinatewiseRule(total_steps=9)))
    check_update_rule(Rescaled(MetaOptimizer()))
    assert Rescaled(CoordinatewiseRule()).for_horizon(7).rule.total_steps == 7
    assert not hasattr(Rescaled(MetaOptimizer()), "total_steps")


def test_units_differ_by_task_and_tensor_and_leave_the_weights_alone():
    family, g = Digits(hidden=4), generator(3)
    tasks = [family.sample(g) for _ in range(64)]
    params = {
        name: torch.stack([p[name] for p in (task.init(g) for task in tasks)])
        for name in tasks[0].init(g)
    }
    before = {name: p.clone() for name, p in params.items()}
    rule = Rescaled(CoordinatewiseRule(total_steps=5))
    state = rule.start(params, 4.0, g)
    drawn = torch.stack(list(state["scale"].values()))
    assert 0.25 <= drawn.min() < 0.3 and 3.5 < drawn.max() <= 4.0
    assert abs(drawn.log().mean()) < 0.2 and len(drawn.unique()) == drawn.numel()
    assert all(torch.equal(params[name], p) for name, p in before.items())
    batches = [task.batch(g) for task in tasks]
    batch = tuple(torch.stack(parts) for parts in zip(*batches))
    run = unroll_tasks(tasks[0].loss, params, [batch], rule, state)
    step = {name: (run.params[name] - p).square().flatten(1).mean(1) for name, p in before.items()}
    lrs = dict(zip(before, run.signals["lr"][:, 0].T))
    for name, squares in step.items():  # lr is the rms of a step, in the tensor's units
        assert torch.allclose(squares.sqrt(), lrs[name] * state["scale"][name], rtol=1e-3)


def test_rule_training_takes_it():
    config = RuleConfig(meta_steps=2, unroll_length=2, max_horizon=4, tasks=2, random_rescale=2.0)
    rule = CoordinatewiseRule()
    before = [p.clone() for p in rule.parameters()]
    history = run_training(RuleTraining(rule, Digits(hidden=4), config))
    assert history.skipped == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, rule.parameters()))
    other = CoordinatewiseRule()
    plain = RuleConfig(**{**vars(config), "random_rescale": 1.0})
    run_training(RuleTraining(other, Digits(hidden=4), plain))
    assert any(not torch.equal(a, b) for a, b in zip(other.parameters(), rule.parameters()))
