"""The rules keep the contract, and what they promise beyond it."""

import pytest
import torch
from torch import Generator

from nested import MetaOptimizer, unroll
from nested.conformance import check_update_rule
from nested.rules import CoordinatewiseRule
from tests.problems import problem

RULES = {
    "CoordinatewiseRule": lambda: CoordinatewiseRule(total_steps=20),
    "CoordinatewiseRule, not told": lambda: CoordinatewiseRule(progress=False),
}


@pytest.mark.parametrize("name", RULES)
def test_it_keeps_the_contract(name):
    check_update_rule(RULES[name]())


def one_move(rule, scale=1.0):
    loss_fn, params, batches, _ = problem(1, requires_grad=False)
    run = unroll(
        lambda p, b: scale * loss_fn(p, b), params, batches, rule.double(), differentiable=False
    )
    return {n: run.params[n] - params[n] for n in params}, run.signals["lr"][0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_steps_root_mean_square_is_the_lr_whatever_the_gradient(scale):
    moves, lrs = one_move(CoordinatewiseRule(total_steps=20), scale)
    for move, lr in zip(moves.values(), lrs, strict=True):
        assert move.square().mean().sqrt().item() == pytest.approx(lr.item(), rel=1e-6)


def test_no_weights_of_the_rule_can_make_a_step_leave_its_range():
    for seed in range(5):
        rule = CoordinatewiseRule(lr_range=(1e-4, 0.5), total_steps=20)
        generator = Generator().manual_seed(seed)
        with torch.no_grad():
            for p in rule.parameters():
                p.copy_(100 * torch.randn(p.shape, generator=generator))
        moves, lrs = one_move(rule)
        assert ((1e-4 <= lrs) & (lrs <= 0.5)).all()
        assert all(move.isfinite().all() for move in moves.values())


def test_it_starts_between_adam_and_muon():
    loss_fn, params, batches, _ = problem(30, requires_grad=False)
    rule = CoordinatewiseRule(progress=False).double()
    run = unroll(loss_fn, params, batches, rule, differentiable=False)
    assert run.losses[-5:].mean() < 0.9 * run.losses[:5].mean()
    assert 0.005 < run.signals["lr"].min() and run.signals["lr"].max() < 0.1


def test_a_rule_is_told_its_horizon():
    rule = CoordinatewiseRule()
    told = rule.for_horizon(50)
    assert told.total_steps == 50 and rule.total_steps is None
    assert told.see.weight is rule.see.weight  # what is learned is one
    _, params, _, _ = problem(1)
    assert told.init(params)["total"] == 50
    with pytest.raises(ValueError, match="sees its progress and needs the number of steps"):
        rule.init(params)
    with pytest.raises(ValueError, match="total_steps is a whole number from 1, but got 0"):
        rule.for_horizon(0)
    meta = MetaOptimizer()
    assert meta.for_horizon(50) is meta


def test_an_unroll_that_was_not_told_takes_its_own_length():
    loss_fn, params, batches, _ = problem(6, requires_grad=False)
    rule = CoordinatewiseRule().double()
    told, alone = (
        unroll(loss_fn, params, batches, r, differentiable=False)
        for r in (rule.for_horizon(6), rule)
    )
    assert torch.equal(told.losses, alone.losses) and alone.state["total"] == 6


def test_wrong_settings_are_refused():
    for wrong, said in (
        ({"hidden": 0}, "hidden is a whole number of units from 1, but got 0"),
        ({"lr_range": (0.1, 1.0)}, "lr_range is .low, high. around 0.02, but got .0.1, 1.0"),
    ):
        with pytest.raises(ValueError, match=said):
            CoordinatewiseRule(**wrong)
