"""Every backend, with every built-in rule, gives eager's numbers: for one task and for T at once.

"compile" runs here without its C++ compiler (``aot_eager``: traced, differentiated and decomposed
alike), but for two tests; the benchmark compares its programs on larger nets.
"""

import importlib

import pytest
import torch
from torch import nn

from nested import MetaOptimizer, functional_loss, unroll, unroll_tasks
from nested.unroll.over_tasks import pick_task
from tests.problems import (
    ConstantRule,
    everything,
    frozen_first_layer,
    generator,
    learned_rule,
    problem,
    repeat_tasks,
    state_with,
    with_buffers,
)

compiled = importlib.import_module("nested.fast.compiled")
STEPS = 5  # two compiled windows, of two steps in these tests, and one step more
RULES = {
    "MetaOptimizer": lambda: gentle_rule(),
    "ConstantRule": lambda: ConstantRule(0.1, 0.8),
    "loss only": lambda: gentle_rule(context=("log_loss",)),
    "a function": lambda: gentle_rule(context=("log_loss", steepest)),
}


def gentle_rule(**how):
    """A MetaOptimizer whose net is far from constant, and whose runs do not diverge."""
    rule = MetaOptimizer(hidden=5, lr_range=(1e-3, 0.3), generator=generator(), **how).double()
    with torch.no_grad():
        rule.net[2].weight.mul_(8)
    return rule


def steepest(*, loss, step, params, grads, buffer):
    return torch.log(torch.stack([g.abs().max() for g in grads.values()]).max() + 1e-3)


@pytest.fixture
def without_compiler(monkeypatch):
    traced = torch.compile(compiled._window, backend="aot_eager", fullgraph=True, dynamic=False)
    monkeypatch.setattr(compiled, "_program", lambda on_gpu: traced)
    monkeypatch.setattr(compiled, "WINDOW", 2)


def compare(backend, tasks, rule, model=None, first_order=False, dtype=torch.float64):
    loss_fn, params, batches, momentum = problem(STEPS, model=model)
    if dtype != torch.float64:
        loss_fn = functional_loss(loss_fn.model.to(dtype), loss_fn.criterion)
        params = {n: p.detach().to(dtype).requires_grad_() for n, p in params.items()}
        momentum = {n: v.detach().to(dtype).requires_grad_() for n, v in momentum.items()}
        batches = [tuple(x.to(dtype) for x in batch) for batch in batches]
    rule = rule.to(dtype)
    state = state_with(rule, params, momentum)
    numbers = []
    for name in ("eager", backend):
        if tasks:
            many = repeat_tasks(params, tasks), [repeat_tasks(b, tasks) for b in batches]
            how = {"backend": name, "first_order": first_order}
            run = unroll_tasks(loss_fn, *many, rule, repeat_tasks(state, tasks), **how)
            run = pick_task(run, tasks - 1)
        else:
            how = {"backend": name, "first_order": first_order}
            run = unroll(loss_fn, params, batches, rule, state, **how)
        values = everything(run)
        sources = [*rule.parameters(), *params.values(), *momentum.values()]
        grads = torch.autograd.grad((values**2).sum(), sources, materialize_grads=True)
        numbers.append((values, torch.cat([g.flatten() for g in grads]).double()))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for ours, reference in zip(numbers[1], numbers[0], strict=True):
        scale = reference.abs().max().item()
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance * scale)
    assert numbers[0][1].abs().max() > 1e-3


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("tasks", [0, 1, 3])
def test_every_rule_checkpointed(tasks, name):
    compare("checkpoint", tasks, RULES[name]())


class Turning(ConstantRule):
    """Hands its state back in another order than it came, with a second part of the same shape."""

    def init(self, params):
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return {"momentum": zeros, "mean": zeros}

    def forward(self, params, grads, state, loss):
        step = super().forward(params, grads, state, loss)
        mean = {name: 0.9 * m + grads[name] ** 2 for name, m in state["mean"].items()}
        moved = {n: w - 0.1 * mean[n] for n, w in step.params.items()}
        return step._replace(params=moved, state={"mean": mean, **step.state})


@pytest.mark.parametrize("tasks", [0, 2])
def test_a_state_in_another_order_is_the_same_state(tasks):
    compare("checkpoint", tasks, Turning(0.05, 0.8))


@pytest.mark.parametrize(("name", "tasks"), [*zip(RULES, (0, 3, 0, 3)), ("MetaOptimizer", 1)])
def test_every_rule_compiled(tasks, name, without_compiler):
    compare("compile", tasks, RULES[name]())


@pytest.mark.parametrize(
    ("backend", "tasks"), [("checkpoint", 0), ("checkpoint", 2), ("compile", 2)]
)
def test_first_order(backend, tasks, without_compiler):
    compare(backend, tasks, gentle_rule(), first_order=True)


@pytest.mark.parametrize("make_model", [frozen_first_layer, with_buffers])
@pytest.mark.parametrize(
    ("backend", "tasks"), [("checkpoint", 0), ("checkpoint", 2), ("compile", 0)]
)
def test_frozen_parameters_and_buffers(backend, tasks, make_model, without_compiler):
    compare(backend, tasks, gentle_rule(), model=make_model())


@pytest.mark.parametrize("backend", ["checkpoint", "compile"])
def test_float32(backend, without_compiler):
    compare(backend, 0, gentle_rule(), dtype=torch.float32)


def test_with_the_compiler(monkeypatch):
    monkeypatch.setattr(compiled, "WINDOW", 2)
    compare("compile", 3, gentle_rule())


def test_where_there_is_no_compiler_it_says_so_once_and_is_eager(monkeypatch):
    broken = torch.compile(compiled._window, backend=no_compiler, fullgraph=True, dynamic=False)
    monkeypatch.setattr(compiled, "_program", lambda on_gpu: broken)
    with pytest.warns(UserWarning, match="torch.compile failed, so the eager backend is used"):
        compare("compile", 0, gentle_rule())


def no_compiler(graph, inputs):
    raise RuntimeError("no C++ compiler here")


# --- T tasks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "checkpoint", "compile"])
@pytest.mark.parametrize("tasks", [0, 2])
def test_large_weights(backend, tasks, without_compiler):
    model = nn.Sequential(
        nn.Linear(3, 2100), nn.Tanh(), nn.Linear(2100, 4), nn.Tanh(), nn.Linear(4, 2)
    )
    loss_fn, params, batches, momentum = problem(3, model=model.double())
    params = {n: p.detach() / 10 for n, p in params.items()}
    rule, names = gentle_rule(context=("log_loss",)), list(params)
    v, w = {n: x.detach() for n, x in momentum.items()}, dict(params)
    for batch in batches:  # the reference: a loop by hand
        points = {n: x.requires_grad_() for n, x in w.items()}
        loss = loss_fn(points, batch)
        grads = torch.autograd.grad(loss, [points[n] for n in names])
        lr, mu = (s.detach() for s in rule.signals(torch.log(loss.detach())[None]))
        v = {n: mu * v[n] + g for n, g in zip(names, grads)}
        w = {n: w[n].detach() - lr * v[n] for n in names}
    state = state_with(rule, params, {n: x.detach() for n, x in momentum.items()})
    if tasks:
        params, state = repeat_tasks(params, tasks), repeat_tasks(state, tasks)
        batches = [repeat_tasks(b, tasks) for b in batches]
    run = (unroll_tasks if tasks else unroll)(
        loss_fn, params, batches, rule, state, backend=backend, differentiable=False
    )
    run = pick_task(run, tasks - 1) if tasks else run
    for name in names:
        torch.testing.assert_close(run.params[name], w[name], rtol=1e-9, atol=1e-12)


# --- checkpoint -----------------------------------------------------------------------------------


def test_checkpoint_refuses_gradients_that_it_would_lose():
    loss_fn, params, batches, _ = problem(3)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="depend on others too: use 'eager'"):
        unroll(
            lambda p, b: scale * loss_fn(p, b),
            params,
            batches,
            learned_rule(),
            backend="checkpoint",
        )


def test_checkpoint_can_be_differentiated_again_but_not_after_a_change():
    rule = learned_rule()
    loss_fn, params, batches, _ = problem(6)
    run = unroll(loss_fn, params, batches, rule, backend="checkpoint")
    own = list(rule.parameters())
    first = torch.autograd.grad(run.losses.sum(), own, retain_graph=True)
    again = torch.autograd.grad(run.losses.sum(), own, retain_graph=True)
    assert all(map(torch.equal, first, again))
    with torch.no_grad():
        own[0].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(run.losses.sum(), own)


def test_checkpoint_refuses_data_with_a_gradient_of_its_own():
    loss_fn, params, batches, _ = problem(3)
    batches[2][0].requires_grad_()
    with pytest.raises(ValueError, match="depend on others too: use 'eager'"):
        unroll(loss_fn, params, batches, learned_rule(), backend="checkpoint")


def test_checkpoint_notices_data_changed_before_the_backward_pass():
    loss_fn, params, batches, _ = problem(3)
    run = unroll(loss_fn, params, batches, learned_rule(), backend="checkpoint")
    batches[1][0].mul_(3)
    with pytest.raises(RuntimeError, match="a batch was changed in place"):
        torch.autograd.grad(run.losses.sum(), list(params.values()))


def test_checkpoint_makes_the_steps_again_in_the_same_precision():
    loss_fn, params, batches, _ = problem(4)
    loss_fn = functional_loss(loss_fn.model.float(), loss_fn.criterion)
    params = {n: p.detach().float().requires_grad_() for n, p in params.items()}
    batches, rule, grads = [tuple(x.float() for x in b) for b in batches], gentle_rule().float(), []
    for backend in ("eager", "checkpoint"):
        with torch.autocast("cpu"):
            run = unroll(loss_fn, params, batches, rule, backend=backend)
        for _ in range(2):  # the second time the first states are made again too
            again = torch.autograd.grad(run.losses.sum(), list(params.values()), retain_graph=True)
        grads.append(again)
    for ours, reference in zip(*grads, strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("tasks", [0, 2])
@pytest.mark.parametrize("backend", ["eager", "checkpoint", "compile", "higher"])
def test_the_flag_decides_about_the_graph_and_not_no_grad(backend, tasks, without_compiler):
    loss_fn, params, batches, _ = problem(STEPS)
    if tasks:
        params, batches = repeat_tasks(params, tasks), [repeat_tasks(b, tasks) for b in batches]
    with torch.no_grad():
        how = {"backend": backend}
        run = (unroll_tasks if tasks else unroll)(loss_fn, params, batches, learned_rule(), **how)
    assert all(x.requires_grad for x in [run.losses, *run.params.values(), *run.signals.values()])


def test_checkpoint_draws_the_same_dropout_again():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    _, params, batches, _ = problem(6, model=model)
    loss_fn, rule = functional_loss(model, nn.functional.mse_loss), gentle_rule()
    grads = []
    for backend in ("eager", "checkpoint"):
        torch.manual_seed(0)
        run = unroll(loss_fn, params, batches, rule, backend=backend)
        torch.manual_seed(99)
        grads.append(torch.autograd.grad(run.losses.sum(), list(rule.parameters())))
    for ours, reference in zip(*grads, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 400])
def test_segments_are_all_the_steps_in_order_and_about_sqrt_2k_of_them(count):
    checkpointed = importlib.import_module("nested.fast.checkpointed")
    pieces = checkpointed._segments(list(range(count)))
    assert [k for piece in pieces for k in piece] == list(range(count))
    kept = max(j + len(piece) for j, piece in enumerate(pieces))
    assert kept <= (2 * count) ** 0.5 + 2
