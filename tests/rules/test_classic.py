"""The classic rules against torch.optim, and their settings against finite differences."""

import math

import pytest
import torch
from torch import nn

from nested import MetaConfig, meta_train, unroll, unroll_tasks
from nested.conformance import check_update_rule
from nested.rules import AdamRule, AdamWRule, LearnedOptimizer, RMSpropRule, SGDRule
from nested.rules.classic import ClassicRule
from nested.tasks import SumRegression
from tests.problems import copies, problem, repeat_tasks

STEPS = 20
BETAS, TINY = (0.875, 0.96875), 2.0**-20  # numbers that float32 holds exactly
CASES = {
    "SGD": (SGDRule, torch.optim.SGD, {"lr": 0.125}),
    "SGD, all": (SGDRule, torch.optim.SGD, dict(lr=0.0625, momentum=0.75, weight_decay=0.125)),
    "RMSprop": (RMSpropRule, torch.optim.RMSprop, dict(lr=2**-6, alpha=0.9375, eps=TINY)),
    "RMSprop, all": (
        RMSpropRule,
        torch.optim.RMSprop,
        dict(lr=2**-7, alpha=0.9375, eps=TINY, momentum=0.5, weight_decay=0.125),
    ),
    "Adam": (AdamRule, torch.optim.Adam, dict(lr=2**-6, betas=BETAS, eps=TINY)),
    "Adam, decay": (
        AdamRule,
        torch.optim.Adam,
        dict(lr=2**-6, betas=BETAS, eps=TINY, weight_decay=0.125),
    ),
    "AdamW": (
        AdamWRule,
        torch.optim.AdamW,
        dict(lr=2**-6, betas=BETAS, eps=TINY, weight_decay=0.125),
    ),
}
RULES = {"SGD": SGDRule, "RMSprop": RMSpropRule, "Adam": AdamRule, "AdamW": AdamWRule}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("by_tensor", [False, True])
def test_it_moves_as_torch_optim_does(case, by_tensor):
    kind, optimizer, settings = CASES[case]
    loss_fn, params, batches, _ = problem(STEPS, requires_grad=False)
    rule = kind(**settings, names=params if by_tensor else None).double()
    if "eps" in settings:
        rule.log_eps.data.fill_(math.log(TINY))  # float32 does not hold it exactly
    run = unroll(loss_fn, params, batches, rule, differentiable=False)
    theirs = {name: nn.Parameter(p.clone()) for name, p in params.items()}
    optimizer = optimizer(theirs.values(), **settings)
    for batch in batches:
        optimizer.zero_grad()
        loss_fn(theirs, batch).backward()
        optimizer.step()
    for name, p in theirs.items():
        assert (run.params[name] - p).abs().max() < 1e-10


def test_the_defaults_are_those_of_torch():
    weight = [nn.Parameter(torch.zeros(1))]
    for name, kind in RULES.items():
        if name == "SGD":
            continue
        theirs, ours = getattr(torch.optim, name)(weight).defaults, kind()
        betas = dict(zip(("beta1", "beta2"), theirs.get("betas", ())))
        for setting in ours.settings:
            value = ours._value(setting).item()
            assert value == pytest.approx({**theirs, **betas}[setting], rel=1e-6), setting


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("by_tensor", [False, True])
def test_hypergradients_are_right_from_the_first_step_on(name, steps, by_tensor):
    loss_fn, params, batches, _ = problem(steps, requires_grad=False)
    rule = RULES[name](lr=0.1, names=params if by_tensor else None).double()
    with torch.no_grad():  # all settings inside, so that both differences exist
        for setting, value in {"momentum": 0.5, "weight_decay": 0.1, "log_eps": -4.0}.items():
            if hasattr(rule, setting):
                getattr(rule, setting).fill_(value)
    learned = dict(rule.named_parameters())

    def final(*values):
        from torch.func import functional_call

        class With(ClassicRule):
            needs_loss = False

            def init(self, params):
                return rule.init(params)

            def forward(self, *arguments):
                return functional_call(rule, dict(zip(learned, values)), arguments)

        run = unroll(loss_fn, params, batches, With(None))
        return loss_fn(run.params, batches[0])

    assert torch.autograd.gradcheck(
        final, tuple(p.detach().requires_grad_() for p in learned.values())
    )


@pytest.mark.parametrize("name", RULES)
def test_a_weight_without_a_gradient_leaves_hypergradients_finite(name):
    rule = RULES[name]()
    params = {"used": torch.ones(3), "unused": torch.ones(2)}
    start = {n: p.requires_grad_() for n, p in params.items()}
    run = unroll(lambda p, b: (p["used"] * b).square().sum(), start, [torch.ones(3)] * 3, rule)
    sum(p.square().sum() for p in run.params.values()).backward()
    for p in [*rule.parameters(), *start.values()]:
        assert p.grad is not None and p.grad.isfinite().all()
    assert rule.lr.grad.abs() > 0


@pytest.mark.parametrize("name", RULES)
def test_it_keeps_the_contract_of_rules(name):
    check_update_rule(RULES[name](lr=0.05))


@pytest.mark.parametrize("name", RULES)
def test_tasks_side_by_side_move_as_one_after_another(name):
    loss_fn, params, batches, _ = problem(4, requires_grad=False)
    rule = RULES[name](names=params).double()
    alone = unroll(loss_fn, copies(params), batches, rule)
    together = unroll_tasks(loss_fn, repeat_tasks(params), [repeat_tasks(b) for b in batches], rule)
    for n in params:
        assert torch.allclose(together.params[n][1], alone.params[n], rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_meta_training_learns_a_rate_for_each_tensor(name):
    family = SumRegression()
    names = list(family.model.state_dict())
    rule = RULES[name](lr=0.01, names=names)
    before = rule.lr.detach().clone()
    config = MetaConfig(meta_steps=8, tasks=4, unroll_length=3, max_horizon=3, lr=1e-3)
    history = meta_train(rule, family, config)
    assert history.skipped == 0 and (rule.lr - before).abs().min() > 1e-4
    net = nn.Linear(4, 1)
    optimizer = LearnedOptimizer(net.parameters(), RULES[name]())
    net(torch.ones(2, 4)).square().mean().backward()
    optimizer.step()


def test_wrong_settings_and_unknown_weights_are_refused():
    with pytest.raises(ValueError, match="lr is from 0 to 1e.06, but got -1"):
        SGDRule(-1)
    _, params, _, _ = problem(1)
    with pytest.raises(ValueError, match=r"has settings for \('a',\), but not for \['0.bias'"):
        SGDRule(names=["a"]).init(params)
