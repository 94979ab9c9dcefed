"""Every way to unroll gives the same numbers, those of torch.optim and of finite differences."""

import pytest
import torch
from torch import nn

from nested import unroll, unroll_tasks
from nested.unroll.over_tasks import pick_task
from tests.problems import (
    ConstantRule,
    WithWeights,
    available,
    everything,
    frozen_first_layer,
    learned_rule,
    problem,
    repeat_tasks,
    state_with,
    with_buffers,
)

BACKENDS = [*available("eager", "higher", "checkpoint"), "tasks"]


def unroll_with(backend, loss_fn, params, batches, rule, state, **how):
    """``unroll``, or task 0 of ``unroll_tasks`` on two equal tasks."""
    if backend != "tasks":
        return unroll(loss_fn, params, batches, rule, state, backend=backend, **how)
    params, batches, state = repeat_tasks(params), [repeat_tasks(b) for b in batches], state
    return pick_task(unroll_tasks(loss_fn, params, batches, rule, repeat_tasks(state), **how), 0)


def scalar(trajectory):
    """A number that everything in the trajectory has a part in."""
    return (everything(trajectory) ** 2).mean() + trajectory.losses[1:].sum()


def hypergradients(trajectory, rule, params, momentum):
    sources = [*rule.parameters(), *params.values(), *momentum.values()]
    grads = torch.autograd.grad(scalar(trajectory), sources, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_gradcheck_with_respect_to_level_4_weights_and_momentum(steps):
    rule = learned_rule()
    loss_fn, params, batches, momentum = problem(steps)
    names, sizes = list(params), dict(rule.named_parameters())

    def outcome(*tensors):
        weights = dict(zip(sizes, tensors[: len(sizes)]))
        start = dict(zip(names, tensors[len(sizes) : len(sizes) + len(names)]))
        buffer = dict(zip(names, tensors[len(sizes) + len(names) :]))
        bound = WithWeights(rule, weights)
        trajectory = unroll(loss_fn, start, batches, bound, state_with(rule, start, buffer))
        return trajectory.losses, *trajectory.params.values(), *trajectory.signals.values()

    inputs = [*rule.parameters(), *params.values(), *momentum.values()]
    inputs = [x.detach().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(outcome, inputs)  # the whole Jacobian


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("make_rule", [learned_rule, lambda: ConstantRule(0.1, 0.8)])
@pytest.mark.parametrize("backend", [*available("higher", "checkpoint"), "tasks"])
def test_backends_agree_in_value_and_hypergradient(backend, make_rule, first_order):
    rule = make_rule()
    loss_fn, params, batches, momentum = problem(6)
    runs = [
        unroll_with(b, loss_fn, params, batches, rule, state, first_order=first_order)
        for b, state in ((b, state_with(rule, params, momentum)) for b in ("eager", backend))
    ]
    torch.testing.assert_close(everything(runs[1]), everything(runs[0]), rtol=1e-10, atol=1e-13)
    grads = [hypergradients(run, rule, params, momentum) for run in runs]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-10, atol=1e-12)
    assert grads[0].abs().max() > 1e-3


@pytest.mark.parametrize("make_model", [frozen_first_layer, with_buffers])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_agree_with_frozen_parameters_and_buffers(backend, make_model):
    rule = learned_rule()
    loss_fn, params, batches, momentum = problem(4, model=make_model())
    momentum = {  # a frozen parameter has no momentum to move it
        name: v if loss_fn.model.get_parameter(name).requires_grad else torch.zeros_like(v)
        for name, v in momentum.items()
    }
    state = state_with(rule, params, momentum)
    run = unroll_with(backend, loss_fn, params, batches, rule, state)
    reference = unroll(loss_fn, params, batches, rule, state)
    torch.testing.assert_close(everything(run), everything(reference), rtol=1e-10, atol=1e-13)
    for name, p in loss_fn.model.named_parameters():
        assert torch.equal(run.params[name], params[name]) != p.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_signals_are_torch_sgd(backend):
    rule = ConstantRule(0.05, 0.9)
    loss_fn, params, batches, _ = problem(50, requires_grad=False)
    run = unroll_with(backend, loss_fn, params, batches, rule, rule.init(params))
    model = loss_fn.model
    model.load_state_dict(params)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for inputs, targets in batches:
        sgd.zero_grad()
        losses.append(nn.functional.mse_loss(model(inputs), targets))
        losses[-1].backward()
        sgd.step()
    torch.testing.assert_close(run.losses, torch.stack(losses), rtol=1e-12, atol=1e-12)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(run.params[name], weight, rtol=1e-12, atol=1e-12)


def test_the_hypergradient_is_the_one_worked_out_by_hand():
    """loss a w^2 / 2: w_K = w_0 (1 - lr a)^K without momentum, so d w_K / d lr is known."""
    curvature, start, lr, steps = 1.7, 0.9, 0.13, 6
    rule = ConstantRule(lr, 0.0)
    params = {"w": torch.tensor(start, dtype=torch.float64, requires_grad=True)}
    run = unroll(lambda p, a: 0.5 * a * p["w"] ** 2, params, [curvature] * steps, rule)
    by_lr, by_start = torch.autograd.grad(run.params["w"], [rule.lr, params["w"]])
    assert run.params["w"].item() == pytest.approx(start * (1 - lr * curvature) ** steps, rel=1e-12)
    by_hand = -start * steps * curvature * (1 - lr * curvature) ** (steps - 1)
    assert by_lr.item() == pytest.approx(by_hand, rel=1e-12)
    assert by_start.item() == pytest.approx((1 - lr * curvature) ** steps, rel=1e-12)


def test_first_order_is_fomaml():
    """With inner gradients constant, d w_K / d w_0 is the identity."""
    rule = ConstantRule(0.1, 0.5)
    loss_fn, params, batches, _ = problem(3)
    run = unroll(loss_fn, params, batches, rule, first_order=True)
    at_end = {name: p.detach().requires_grad_() for name, p in run.params.items()}
    expected = torch.autograd.grad(loss_fn(at_end, batches[0]), list(at_end.values()))
    grads = torch.autograd.grad(loss_fn(run.params, batches[0]), list(params.values()))
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_two_windows_with_carried_state_are_one(backend, cut):
    rule = learned_rule()
    loss_fn, params, batches, momentum = problem(7)
    state = state_with(rule, params, momentum)
    whole = unroll_with(backend, loss_fn, params, batches, rule, state)
    first = unroll_with(backend, loss_fn, params, batches[:cut], rule, state)
    rest = unroll_with(backend, loss_fn, first.params, batches[cut:], rule, first.state)
    torch.testing.assert_close(torch.cat([first.losses, rest.losses]), whole.losses)
    for name in params:
        torch.testing.assert_close(rest.params[name], whole.params[name], rtol=1e-12, atol=0)
    ours = torch.autograd.grad(rest.losses.sum(), list(rule.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(whole.losses[cut:].sum(), list(rule.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_roll_out_has_the_same_numbers_and_no_graph(backend):
    rule = learned_rule()
    loss_fn, params, batches, momentum = problem(4)
    state = state_with(rule, params, momentum)
    plain = unroll_with(backend, loss_fn, params, batches, rule, state, differentiable=False)
    full = unroll_with(backend, loss_fn, params, batches, rule, state)
    torch.testing.assert_close(everything(plain), everything(full), rtol=1e-12, atol=0)
    leaves = [*plain.params.values(), *plain.state["momentum"].values(), plain.losses]
    assert not any(leaf.requires_grad for leaf in [*leaves, *plain.signals.values()])


def test_tasks_do_not_mix_and_equal_themselves_run_alone():
    rule = learned_rule()
    problems = [problem(5, seed=seed) for seed in range(3)]
    loss_fn = problems[0][0]
    params = {n: torch.stack([p[1][n] for p in problems]).detach() for n in problems[0][1]}
    params = {name: p.requires_grad_() for name, p in params.items()}
    batches = [
        tuple(torch.stack([p[2][k][i] for p in problems]) for i in range(2)) for k in range(5)
    ]
    together = unroll_tasks(loss_fn, params, batches, rule)
    for t, (_, alone_params, alone_batches, _) in enumerate(problems):
        alone = unroll(loss_fn, alone_params, alone_batches, rule)
        both = everything(pick_task(together, t)), everything(alone)
        torch.testing.assert_close(*both, rtol=1e-10, atol=1e-13)
    (grads,) = torch.autograd.grad(together.losses[1].sum(), [params["0.weight"]])
    assert grads[1].abs().max() > 0 and grads[0].abs().max() == grads[2].abs().max() == 0


def test_a_weight_the_loss_does_not_use_stays_where_it_is():
    rule = learned_rule()
    params = {"used": torch.ones(2).double(), "unused": torch.ones(3).double()}
    batches = [torch.tensor(1.0)] * 3
    run = unroll(lambda p, b: b * (p["used"] ** 2).sum(), params, batches, rule)
    assert torch.equal(run.params["unused"], params["unused"])
    assert not torch.equal(run.params["used"], params["used"])
