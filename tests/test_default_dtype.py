"""What is loaded or drawn is the same under any default dtype: a file's dtype is its own."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from nested import MetaConfig, MetaOptimizer, unroll
from nested.meta.training import Training, run_training
from nested.rules import CoordinatewiseRule, load_rule, save_rule
from nested.rules.rule_training import RuleConfig, RuleTraining
from nested.support.files import load_checkpoint
from nested.tasks import FAMILIES, Digits
from tests.problems import generator, problem

OTHERS = (torch.float64, torch.bfloat16, torch.float16)


@pytest.fixture(params=OTHERS, ids=str)
def other_default(request):
    """Sets another default dtype when called, and the usual one at the end."""
    usual = torch.get_default_dtype()
    yield lambda: torch.set_default_dtype(request.param)
    torch.set_default_dtype(usual)


def assert_same(ours, theirs):
    ours, theirs = tree_leaves(ours), tree_leaves(theirs)
    assert [x.dtype for x in ours] == [x.dtype for x in theirs]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_pretrained_rule_is_as_its_file_says(other_default):
    usual = load_rule().state_dict()
    other_default()
    assert_same(load_rule().state_dict(), usual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [CoordinatewiseRule, MetaOptimizer])
def test_a_rule_has_the_dtype_of_its_file_and_moves_alike(kind, dtype, other_default, tmp_path):
    save_rule(tmp_path / "rule.safetensors", kind(generator=generator(3)).to(dtype))
    usual = load_rule(tmp_path / "rule.safetensors")
    assert {p.dtype for p in usual.parameters()} == {dtype}
    assert all(p.requires_grad for p in usual.parameters())
    loss_fn, params, batches, _ = problem(3, requires_grad=False)
    params = {name: p.float() for name, p in params.items()}
    batches = [(x.float(), y.float()) for x, y in batches]
    before = unroll(loss_fn, params, batches, usual, differentiable=False)
    other_default()
    after = load_rule(tmp_path / "rule.safetensors")
    assert_same(after.state_dict(), usual.state_dict())
    assert_same(unroll(loss_fn, params, batches, after, differentiable=False), before)


def test_a_range_holds_whatever_the_default_dtype(other_default):
    other_default()
    low, high = 1.003e-2, 1.2e-2  # closer than half precision can tell apart
    rule = MetaOptimizer(lr_range=(low, high), momentum_range=(0.5, 0.51))
    for reach in (-1e4, 0.0, 1e4):
        lr, momentum = rule.signals(torch.full((4,), reach, dtype=torch.float32))
        assert low < lr < high and 0.5 < momentum < 0.51


@pytest.mark.parametrize("name", FAMILIES)
def test_tasks_are_the_same_numbers(name, other_default):
    def drawn():
        family, g = FAMILIES[name](), generator(5)
        task = family.sample(g)
        params = task.init(g)
        batches = [task.batch(g, split) for split in ("train", "query")]
        return params, batches, task.loss(params, batches[0])

    usual = drawn()
    other_default()
    assert_same(drawn(), usual)


@pytest.mark.parametrize("estimator", ["gradient", "pes", "rule training"])
def test_meta_training_goes_on_from_a_checkpoint_alike(estimator, other_default, tmp_path):
    def trained(steps, where, resume=False):
        rule = MetaOptimizer(5, generator=generator(0)).float()
        settings = {"tasks": 4, "unroll_length": 2, "max_horizon": 6, "meta_steps": 6}
        if estimator == "rule training":
            config = RuleConfig(**settings, groups=2, random_rescale=1.5)
            training = RuleTraining(rule, Digits(hidden=4), config)
        else:
            config = MetaConfig(**settings, estimator=estimator)
            training = Training(rule, Digits(hidden=4), config)

        def stop(history):
            if len(history.records) == steps:
                raise KeyboardInterrupt

        try:
            run_training(training, checkpoint=where, resume=resume, on_step=stop)
        except KeyboardInterrupt:
            pass
        return rule.state_dict()

    whole = trained(99, tmp_path / "whole.pt")
    trained(4, tmp_path / "cut.pt")
    other_default()
    assert_same(trained(99, tmp_path / "cut.pt", resume=True), whole)
    assert load_checkpoint(tmp_path / "cut.pt")["rule"]["net.0.weight"].dtype is torch.float32
