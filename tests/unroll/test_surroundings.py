"""An unroll inside transforms, inference mode and other surroundings: the same numbers as outside,
or one sentence."""

import warnings
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from nested import (
    MetaConfig,
    Step,
    Task,
    TaskFamily,
    UpdateRule,
    functional_loss,
    meta_train,
    unroll,
    unroll_tasks,
)
from nested.unroll.over_tasks import over_tasks, pick_task, stack_tasks
from tests.problems import ConstantRule, available, generator, learned_rule, problem, repeat_tasks

needs_fast = pytest.mark.skipif(not available("compile"), reason="nested/fast was deleted")

mse_loss = nn.functional.mse_loss


class Plain(UpdateRule):
    """SGD whose rate is an argument, to differentiate with respect to it."""

    def __init__(self, lr):
        super().__init__()
        self.lr = lr

    def init(self, params):
        return {}

    def forward(self, params, grads, state, loss):
        return Step({n: p - self.lr * grads[n] for n, p in params.items()}, state, {})


def last_loss(requires_grad, **how):
    loss_fn, params, batches, _ = problem(3, requires_grad=requires_grad)
    return lambda lr: unroll(loss_fn, params, batches, Plain(lr), **how).losses[-1]


LR = torch.tensor(0.1, dtype=torch.float64)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_transforms_of_torch_func_give_the_usual_hypergradients(requires_grad):
    outcome = last_loss(requires_grad)
    lr = LR.clone().requires_grad_()
    (slope,) = torch.autograd.grad(outcome(lr), lr, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, lr)
    torch.testing.assert_close(torch.func.grad(outcome)(LR), slope.detach())
    torch.testing.assert_close(torch.func.jacrev(outcome)(LR), slope.detach())
    torch.testing.assert_close(torch.func.jacfwd(outcome)(LR), slope.detach())
    torch.testing.assert_close(torch.func.hessian(outcome)(LR), curvature)
    value, tangent = torch.func.jvp(outcome, (LR,), (torch.ones_like(LR),))
    torch.testing.assert_close(
        (value.detach(), tangent.detach()), (outcome(LR).detach(), slope.detach())
    )
    rates = torch.stack([LR, 2 * LR])
    expected = torch.stack([outcome(rate) for rate in rates])
    torch.testing.assert_close(torch.func.vmap(outcome)(rates), expected)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(outcome(forward_ad.make_dual(LR, torch.ones_like(LR))))
        torch.testing.assert_close(dual.tangent.detach(), slope.detach())


def test_transforms_over_first_weights_and_over_tasks():
    loss_fn, params, batches, _ = problem(3, requires_grad=False)
    rule = learned_rule()

    def outcome(start):
        return unroll(loss_fn, start, batches, rule).losses[-1]

    start = {name: p.clone().requires_grad_() for name, p in params.items()}
    expected = dict(zip(start, torch.autograd.grad(outcome(start), list(start.values()))))
    torch.testing.assert_close(torch.func.grad(outcome)(params), expected)
    many, drawn = repeat_tasks(params), repeat_tasks(batches)
    by_func = torch.func.grad(lambda p: unroll_tasks(loss_fn, p, drawn, rule).losses[:, -1].sum())
    torch.testing.assert_close(by_func(many), repeat_tasks(expected))
    torch.testing.assert_close(torch.vmap(torch.func.grad(outcome))(many), repeat_tasks(expected))


@pytest.mark.parametrize("how", [{"first_order": True}, {"differentiable": False}])
def test_constants_stay_constants_inside_a_transform(how):
    outcome, lr = last_loss(False, **how), LR.clone().requires_grad_()
    expected = torch.zeros_like(LR)
    if "first_order" in how:
        (expected,) = torch.autograd.grad(outcome(lr), lr)
    torch.testing.assert_close(torch.func.grad(outcome)(LR), expected)


@pytest.mark.parametrize("run", [unroll, unroll_tasks])
@pytest.mark.parametrize("backend", available("eager", "checkpoint"))
def test_inference_mode_changes_nothing(run, backend):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    loss_fn, params, batches, _ = problem(3, model=model)
    if run is unroll_tasks:
        params, batches = repeat_tasks(params), repeat_tasks(batches)
    expected = run(loss_fn, params, batches, learned_rule(), backend=backend)
    with torch.inference_mode():
        copies = [tuple(x.clone() for x in batch) for batch in batches]
        found = run(loss_fn, params, copies, learned_rule_made_outside(), backend=backend)
    assert torch.equal(found.losses, expected.losses) and found.losses.requires_grad
    found.losses.sum().backward()


def learned_rule_made_outside():
    with torch.inference_mode(False):
        return learned_rule()


def test_a_rule_made_in_inference_mode_is_refused():
    loss_fn, params, batches, _ = problem(2)
    with torch.inference_mode():
        rule = learned_rule()
    with pytest.raises(ValueError, match="made in inference mode.*make it outside"):
        unroll(loss_fn, params, batches, rule)


class Labelled(NamedTuple):
    inputs: torch.Tensor
    targets: torch.Tensor
    name: str
    weight: float | None


@pytest.mark.parametrize("kind", [tuple, dict, Labelled])
def test_batches_may_hold_values_that_are_no_tensors(kind):
    loss_fn, params, pairs, _ = problem(3)

    def labelled(batch):
        parts = Labelled(*batch, "a name", 2.0)
        return parts._asdict() if kind is dict else tuple(parts) if kind is tuple else parts

    def weighted(params, batch):
        inputs, targets, name, weight = batch.values() if kind is dict else batch
        assert name == "a name"
        return weight * loss_fn(params, (inputs, targets))

    batches, rule = [labelled(pair) for pair in pairs], learned_rule()
    alone = unroll(weighted, params, batches, rule)
    torch.testing.assert_close(alone.losses[0], 2 * loss_fn(params, pairs[0]))
    stacked = [stack_tasks([batch, batch]) for batch in batches]
    together = unroll_tasks(weighted, repeat_tasks(params), stacked, rule)
    torch.testing.assert_close(together.losses, alone.losses.expand(2, 3))


def test_tasks_whose_other_values_differ_are_refused():
    with pytest.raises(ValueError, match="shared by all tasks, but they differ: .'a', 'b'"):
        stack_tasks([(torch.zeros(1), "a"), (torch.zeros(1), "b")])


def depends_on_data(loss_fn):
    """The loss, doubled where the first input is above 0: a decision that no transform can see."""
    return lambda params, batch: loss_fn(params, batch) * (2 if batch[0][0, 0] > 0 else 1)


def test_control_flow_that_depends_on_data_runs_task_by_task():
    loss_fn, params, batches, _ = problem(3)
    loss_fn, rule = depends_on_data(loss_fn), learned_rule()
    other = [(-inputs, targets) for inputs, targets in batches]
    stacked = [stack_tasks(pair) for pair in zip(batches, other)]
    with pytest.warns(UserWarning, match="one after another, which is slower"):
        together = unroll_tasks(loss_fn, repeat_tasks(params), stacked, rule)
    alone = [unroll(loss_fn, params, b, rule).losses for b in (batches, other)]
    torch.testing.assert_close(together.losses, torch.stack(alone))


def test_a_mistake_inside_tasks_is_told_in_plain_words():
    loss_fn, params, batches, _ = problem(2)
    wrong = [(inputs[:, :2], targets) for inputs, targets in batches]
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="mat1 and mat2"):
        warnings.simplefilter("error")
        unroll_tasks(loss_fn, repeat_tasks(params), repeat_tasks(wrong), learned_rule())


class Noisy(ConstantRule):
    """Draws its first state and a little of each step."""

    def init(self, params):
        return {"momentum": {n: torch.randn_like(p) for n, p in params.items()}}

    def forward(self, params, grads, state, loss):
        grads = {name: g + torch.randn_like(g) for name, g in grads.items()}
        return super().forward(params, grads, state, loss)


def test_a_rule_may_draw_random_numbers_of_each_task():
    loss_fn, params, batches, _ = problem(3)
    run = unroll_tasks(loss_fn, repeat_tasks(params), repeat_tasks(batches), Noisy(0.1, 0.5))
    assert not torch.allclose(run.losses[0, 1:], run.losses[1, 1:])


class Recurrent(Task):
    """A GRU that predicts sums: PyTorch cannot batch it over tasks."""

    cells = nn.GRU(1, 3, batch_first=True)
    loss = staticmethod(functional_loss(cells, lambda out, y: mse_loss(out[0].sum(-1), y)))

    def init(self, generator):
        return {
            n: 0.3 * torch.randn(p.shape, generator=generator)
            for n, p in self.cells.named_parameters()
        }

    def batch(self, generator, split="train"):
        x = torch.randn(4, 5, 1, generator=generator)
        return x, x.cumsum(1)[..., 0]


class RecurrentFamily(TaskFamily):
    def __init__(self):
        self.task = Recurrent()

    def sample(self, generator):
        return self.task

    def held_out(self):
        return self


def test_meta_training_on_a_gru_takes_the_tasks_one_by_one():
    rule = ConstantRule(0.05, 0.5).float()
    config = MetaConfig(meta_steps=2, unroll_length=2, max_horizon=2, tasks=3)
    with pytest.warns(UserWarning, match="one after another"):
        history = meta_train(rule, RecurrentFamily(), config)
    assert history.skipped == 0 and rule.lr != 0.05


def test_a_function_that_vmap_cannot_run_warns_once():
    run = over_tasks(lambda x: x if x.sum() > 0 else -x)
    x = torch.randn(4, 3, generator=generator())
    with pytest.warns(UserWarning) as caught:
        first, second = run(x), run(x)
    assert len(caught) == 1 and torch.equal(first, second)
    assert torch.equal(pick_task(first, 1), x[1] if x[1].sum() > 0 else -x[1])


@needs_fast
def test_quadratics_compile_falls_back_where_control_flow_depends_on_data():
    loss_fn, params, batches, _ = problem(4)
    loss_fn, rule = depends_on_data(loss_fn), learned_rule()
    with pytest.warns(UserWarning, match="the eager backend is used"):
        compiled = unroll(loss_fn, params, batches, rule, backend="compile")
    assert torch.equal(compiled.losses, unroll(loss_fn, params, batches, rule).losses)


def test_a_loss_that_is_no_scalar_is_refused_inside_a_transform_too():
    loss_fn, params, batches, _ = problem(2, requires_grad=False)

    def by_row(params, batch):
        return loss_fn(params, batch).expand(3)

    with pytest.raises(ValueError, match="must be a scalar, but got shape .3,."):
        torch.func.grad(lambda lr: unroll(by_row, params, batches, Plain(lr)).losses.sum())(LR)


@pytest.mark.parametrize("backend", available("eager", "checkpoint", "higher"))
def test_models_with_several_inputs_unroll(backend):
    class Scaled(nn.Linear):
        def forward(self, x, scale):
            return scale * super().forward(x)

    model, (_, params, pairs, _) = Scaled(3, 2).double(), problem(3, model=nn.Linear(3, 2).double())
    batches = [{"x": x, "scale": torch.full((5, 1), 2.0), "targets": y} for x, y in pairs]
    loss_fn, rule = functional_loss(model, mse_loss), learned_rule()
    run = unroll(loss_fn, params, batches, rule, backend=backend)
    plain = functional_loss(nn.Linear(3, 2).double(), lambda out, y: mse_loss(2 * out, y))
    expected = unroll(plain, params, pairs, rule, backend=backend)
    torch.testing.assert_close(run.losses, expected.losses)
    many = [repeat_tasks(batch) for batch in batches]
    together = unroll_tasks(loss_fn, repeat_tasks(params), many, rule, backend=backend)
    torch.testing.assert_close(together.losses, expected.losses.expand(2, 3))


@pytest.mark.parametrize("backend", available("checkpoint", "compile", "higher"))
def test_other_backends_say_that_they_do_not_run_in_a_transform(backend):
    outcome = last_loss(False, backend=backend)
    with pytest.raises(ValueError, match="does not run inside torch.func.*use backend='eager'"):
        torch.func.grad(outcome)(LR)
