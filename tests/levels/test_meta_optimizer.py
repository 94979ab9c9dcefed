"""Level 4's two numbers: bounded by construction, alive from the start, safe at the end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nested import MetaOptimizer
from tests.problems import copies, generator

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
LOW_LR, HIGH_LR, HIGH_MOMENTUM = 1e-3, 10.0, 0.99


def scrambled(scale, seed):
    rule = MetaOptimizer(generator=generator(seed))
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.mul_(scale)
    return rule


def parts(dtype=torch.float32, device="cpu"):
    params = {"w": torch.ones(2, 3, dtype=dtype), "b": torch.tensor(1.0, dtype=dtype)}
    grads = {name: 0.5 * p for name, p in params.items()}
    return params, grads


@settings(max_examples=200)
@given(
    st.lists(finite, min_size=4, max_size=4),
    st.sampled_from([1.0, 30.0, 1e4]),
    st.integers(0, 5),
)
def test_signals_are_inside_their_ranges_for_every_finite_input(context, scale, seed):
    lr, momentum = scrambled(scale, seed).signals(torch.tensor(context))
    assert LOW_LR < lr.item() < HIGH_LR
    assert 0 < momentum.item() < HIGH_MOMENTUM


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_bounds_and_dtypes_hold_in_every_precision(dtype):
    params, grads = parts(dtype)
    for scale in (1.0, 1e3):
        rule = scrambled(scale, 1)
        step = rule(params, grads, rule.init(params), torch.tensor(2.0, dtype=dtype))
        assert LOW_LR < step.signals["lr"].item() < HIGH_LR
        assert all(step.params[name].dtype == dtype for name in params)
        assert all(step.state["momentum"][name].dtype == dtype for name in params)


def test_it_starts_near_its_defaults_with_a_live_gradient_at_both_heads():
    rule = MetaOptimizer()
    context = torch.tensor([[0.8, 0.0, 0.0, 0.0], [-2.0, 4.0, -1.0, 0.9]])
    lr, momentum = rule.signals(context)
    torch.testing.assert_close(lr, torch.full((2,), 0.1), rtol=0.5, atol=0)
    torch.testing.assert_close(momentum, torch.full((2,), 0.5), rtol=0, atol=0.1)
    for signal in (lr, momentum):
        grads = torch.autograd.grad(signal.sum(), rule.parameters(), retain_graph=True)
        assert all(g.abs().max() > 1e-4 for g in grads)


@pytest.mark.parametrize("lr_range", [(1e-9, 1e9), (0.3, 0.33), (5.0, 1e4)])
@pytest.mark.parametrize("momentum_range", [(0.0, 0.01), (0.98, 0.99), (0.9, 0.999)])
def test_bounds_hold_in_every_range_that_is_accepted(lr_range, momentum_range):
    rule = MetaOptimizer(lr_range=lr_range, momentum_range=momentum_range)
    for scale in (1.0, 1e6):
        with torch.no_grad():
            rule.net[2].weight.mul_(scale)
        lr, momentum = rule.signals(torch.tensor([[9.0] * 4, [-9.0] * 4, [0.0] * 4]))
        assert (lr.double() > lr_range[0]).all() and (lr.double() < lr_range[1]).all()
        assert (momentum.double() > momentum_range[0]).all()
        assert (momentum.double() < momentum_range[1]).all()


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_gives_the_low_end(loss):
    rule, (params, grads) = MetaOptimizer(), parts()
    signals = rule(params, grads, rule.init(params), torch.tensor(loss)).signals
    assert LOW_LR < signals["lr"] < 1.02 * LOW_LR and 0 <= signals["momentum"] < 0.002


def test_features_in_half_the_range_of_floats_keep_gradients_finite():
    rule, (params, _) = MetaOptimizer(), parts()
    for scale in (0.0, 1e-30, 1e30):
        grads = {name: scale * torch.ones_like(p) for name, p in params.items()}
        step = rule(params, grads, rule.init(params), torch.tensor(scale))
        total = step.signals["lr"] + step.signals["momentum"]
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, rule.parameters()))


def test_nothing_passed_in_is_changed():
    rule, (params, grads) = MetaOptimizer(), parts()
    state = rule.init(params)
    before = copies((params, grads, state))
    rule(params, grads, state, torch.tensor(1.0))
    for new, old in zip((params, grads, state["momentum"]), (*before[:2], before[2]["momentum"])):
        assert all(torch.equal(new[name], old[name]) for name in new)
    assert state["step"] == 0


def test_the_same_generator_gives_the_same_bits():
    first, second = (MetaOptimizer(generator=generator(3)) for _ in range(2))
    other = MetaOptimizer(generator=generator(4))
    assert torch.equal(first.net[0].weight, second.net[0].weight)
    assert not torch.equal(first.net[0].weight, other.net[0].weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden is a whole number"),
        ({"lr_range": (0.0, 1.0)}, "lr_range is"),
        ({"lr_range": (2.0, 1.0)}, "lr_range is"),
        ({"momentum_range": (0.5, 1.0)}, "momentum_range is in"),
        ({"momentum_range": (0.9, 0.900001)}, "momentum_range is in"),
        ({"lr_range": (1e-38, 10.0)}, "lr_range is"),
        ({"lr_range": (0.3, 0.30000001)}, "lr_range is"),
        ({"hidden": True}, "hidden is a whole number"),
        ({"context": ()}, "context is a tuple"),
        ({"context": ("loss",)}, "context is a tuple"),
        ({"context": ("progress",)}, "context is a tuple"),
        ({"context": "log_loss"}, "context is a tuple"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MetaOptimizer(**settings)
