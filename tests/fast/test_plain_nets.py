"""Plain nets, alone and T of them: functional_loss's loss, autograd's gradient, at any order.

The reference is ``functional_call`` with ``torch.autograd``, which these paths replace.
"""

import functools

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.modules.module import register_module_forward_hook

from nested import functional_loss, unroll, unroll_tasks
from nested.fast.plain_nets import PlainLoss
from nested.unroll.gradient import loss_and_gradient
from nested.unroll.over_tasks import stack_tasks
from nested.unroll.registry import faster_loss, loss_over_tasks
from tests.problems import generator, learned_rule

TASKS, ROWS = 3, 7


def twice_the_same_activation():
    tanh = nn.Tanh()
    return nn.Sequential(nn.Linear(3, 5), tanh, nn.Linear(5, 4), tanh, nn.Linear(4, 2))


WRITTEN_OUT = {
    "a line": lambda: nn.Linear(3, 2),
    "no bias": lambda: nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)),
    "two activations": lambda: nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2, bias=False)
    ),
    "twice the same": twice_the_same_activation,
}
BY_AUTOGRAD = {
    "GELU": lambda: nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)),
    "ends in an activation": lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh()),
    "linear after linear": lambda: nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)),
}
NETS = {**WRITTEN_OUT, **BY_AUTOGRAD}


def hooked():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def hooked_backward():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    model[2].register_full_backward_pre_hook(lambda module, grads: (2 * grads[0],))
    return model


def hooked_before():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    model[2].register_forward_pre_hook(lambda module, inputs: 2 * inputs[0])
    return model


def patched():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    model[0].forward = lambda x: torch.zeros(len(x), 5, dtype=x.dtype)
    return model


def with_a_parameter_of_no_layer():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    model.extra = nn.Parameter(torch.ones(2))
    return model


class Doubled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def tied():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


NOT_PLAIN = {
    "another layer": lambda: nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2)),
    "a subclass": lambda: nn.Sequential(Doubled(3, 5), nn.Tanh(), nn.Linear(5, 2)),
    "a hook": hooked,
    "a hook before": hooked_before,
    "a hook on the way back": hooked_backward,
    "another forward": patched,
    "a parameter of no layer": with_a_parameter_of_no_layer,
    "a layer twice": tied,
}


def draw(model, criterion, tasks=TASKS, seed=0):
    """(loss_fn, params of each task, a batch of each task) in float64."""
    g, model = generator(seed), model.double()
    params = [
        {n: torch.randn(p.shape, generator=g).double() for n, p in model.named_parameters()}
        for _ in range(tasks)
    ]
    batches = []
    for _ in range(tasks):
        x = torch.randn(ROWS, 3, generator=g).double()
        y = torch.randint(2, (ROWS,), generator=g) if criterion is cross_entropy else x[:, :2].sin()
        batches.append((x, y))
    return functional_loss(model, criterion), params, batches


def orders(loss_and_grads, params, weights):
    """The loss, its gradient, and two more derivatives of a random combination of both."""
    params = {n: p.clone().requires_grad_() for n, p in params.items()}
    loss, grads = loss_and_grads(params)
    found = [loss, *grads.values()]
    for order in range(2):
        total = sum((w * x).sum() for w, x in zip(weights, found[-len(params) :]))
        total = (total + found[0].sum()) ** 2
        found += torch.autograd.grad(total, list(params.values()), create_graph=True)
    return found


def by_autograd(loss_fn, batch):
    def loss_and_grads(params):
        loss = loss_fn(params, batch)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        return loss, dict(zip(params, grads))

    return loss_and_grads


@pytest.mark.parametrize("criterion", [cross_entropy, mse_loss])
@pytest.mark.parametrize("net", WRITTEN_OUT)
def test_the_gradient_written_out_is_autograds_to_the_third_order(net, criterion):
    loss_fn, params, batches = draw(WRITTEN_OUT[net](), criterion)
    g = generator(9)
    weights = [torch.randn(p.shape, generator=g).double() for p in params[0].values()]
    expected = [
        orders(by_autograd(loss_fn, batch), own, weights) for own, batch in zip(params, batches)
    ]
    for own, batch, reference in zip(params, batches, expected):
        plain = faster_loss(loss_fn, own)
        found = orders(lambda p, b=batch, f=plain: f.with_gradient(p, b), own, weights)
        for ours, theirs in zip(found, reference, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    many = loss_over_tasks(loss_fn, params[0])
    loss, grads = many.with_gradient(stack_tasks(params), stack_tasks(batches))
    for t, reference in enumerate(expected):
        together = [loss[t], *(x[t] for x in grads.values())]
        for ours, theirs in zip(together, reference):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("criterion", [cross_entropy, mse_loss])
@pytest.mark.parametrize("net", NETS)
def test_one_unroll_whoever_takes_the_gradient(net, criterion, monkeypatch):
    loss_fn, params, batches = draw(NETS[net](), criterion)
    assert (faster_loss(loss_fn, params[0]).net is not None) == (net in WRITTEN_OUT)
    rule, numbers = learned_rule(), []
    many = stack_tasks(params), [stack_tasks(batches)] * 4
    for written_out in (True, False):
        if not written_out:
            monkeypatch.setattr(PlainLoss, "with_gradient", lambda self, params, batch: None)
        own = {n: p.clone().requires_grad_() for n, p in many[0].items()}
        run = unroll_tasks(loss_fn, own, many[1], rule)
        sources = [*rule.parameters(), *own.values()]
        numbers.append([run.losses, *torch.autograd.grad(run.losses.sum(), sources)])
    for ours, theirs in zip(*numbers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("criterion", [cross_entropy, mse_loss])
@pytest.mark.parametrize("net", NETS)
def test_losses_alone_and_together_are_functional_loss(net, criterion):
    loss_fn, params, batches = draw(NETS[net](), criterion)
    alone = torch.stack([loss_fn(p, b) for p, b in zip(params, batches)])
    quick = torch.stack([faster_loss(loss_fn, p)(p, b) for p, b in zip(params, batches)])
    together = loss_over_tasks(loss_fn, params[0])(stack_tasks(params), stack_tasks(batches))
    torch.testing.assert_close(quick, alone, rtol=1e-12, atol=0)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("model", NOT_PLAIN)
def test_what_is_not_plain_is_left_as_it_is(model):
    loss_fn, params, batches = draw(NOT_PLAIN[model](), mse_loss)
    assert faster_loss(loss_fn, params[0]) is loss_fn
    if model not in ("a layer twice", "another forward"):
        together = loss_over_tasks(loss_fn, params[0])(stack_tasks(params), stack_tasks(batches))
        assert together.shape == (TASKS,)


def test_a_hook_on_all_modules_is_no_plain_net():
    loss_fn, (own,), _ = draw(WRITTEN_OUT["a line"](), mse_loss, tasks=1)
    hook = register_module_forward_hook(lambda module, inputs, output: 2 * output)
    try:
        assert faster_loss(loss_fn, own) is loss_fn
    finally:
        hook.remove()


def test_a_wrapper_around_a_plain_loss_is_not_the_plain_loss():
    loss_fn, (own,), (batch,) = draw(WRITTEN_OUT["two activations"](), mse_loss, tasks=1)

    @functools.wraps(loss_fn)
    def with_decay(params, batch):
        return loss_fn(params, batch) + sum((w * w).sum() for w in params.values())

    run = unroll(with_decay, own, [batch], learned_rule())
    torch.testing.assert_close(run.losses[0], with_decay(own, batch))
    with pytest.raises(TypeError, match="needs a loss made by functional_loss"):
        unroll(with_decay, own, [batch], learned_rule(), backend="higher")


def test_targets_in_another_precision_are_left_to_autograd():
    loss_fn, (own,), ((x, y),) = draw(WRITTEN_OUT["a line"](), mse_loss, tasks=1)
    plain, batch = faster_loss(loss_fn, own), (x, y.float())
    assert plain.with_gradient(own, batch) is None
    torch.testing.assert_close(plain(own, batch), loss_fn(own, batch))


def test_forward_mode_differentiation_is_left_to_autograd():
    loss_fn, (own,), (batch,) = draw(WRITTEN_OUT["two activations"](), cross_entropy, tasks=1)
    with forward_ad.dual_level():
        own = {n: p.requires_grad_() for n, p in own.items()}
        dual = {n: forward_ad.make_dual(p, torch.ones_like(p)) for n, p in own.items()}
        losses = unroll(loss_fn, dual, [batch], learned_rule()).losses
        assert forward_ad.unpack_dual(losses).tangent.abs().max() > 0


def test_two_names_for_one_weight_have_a_gradient_each():
    loss_fn, (own,), (batch,) = draw(BY_AUTOGRAD["GELU"](), mse_loss, tasks=1)
    own["0.bias"] = own["0.weight"][:, 0].clone().requires_grad_()
    shared = {**own, "0.weight": own["0.bias"][:, None] * torch.ones(1, 3).double()}
    _, grads = loss_and_gradient(loss_fn, shared, batch)
    alone = {n: p.detach() for n, p in shared.items()}
    for name, grad in loss_and_gradient(loss_fn, alone, batch)[1].items():
        torch.testing.assert_close(grads[name], grad)


def test_labels_that_cross_entropy_ignores():
    loss_fn, params, batches = draw(WRITTEN_OUT["two activations"](), cross_entropy)
    for t, (_, labels) in enumerate(batches):
        labels[: (2, 5, ROWS)[t]] = -100  # in the last task, all
    many = loss_over_tasks(loss_fn, params[0])
    together = stack_tasks(params), stack_tasks(batches)
    losses, grads = many.with_gradient(*together)
    for t in range(TASKS):
        own = {n: p.requires_grad_() for n, p in params[t].items()}
        loss, reference = by_autograd(loss_fn, batches[t])(own)
        alone = faster_loss(loss_fn, own).with_gradient(own, batches[t])
        for found in (alone[0], losses[t], many(*together)[t]):
            torch.testing.assert_close(found, loss, equal_nan=True)
        for name, grad in reference.items():
            torch.testing.assert_close(alone[1][name], grad)
            torch.testing.assert_close(grads[name][t], grad)


def test_a_label_without_a_class_is_refused_as_by_pytorch():
    loss_fn, params, batches = draw(WRITTEN_OUT["a line"](), cross_entropy, tasks=1)
    batches[0][1][0] = 7
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        unroll(loss_fn, params[0], batches, learned_rule())


UNUSUAL = {
    "targets that are probabilities": lambda x, y: (x, torch.softmax(x[:, :2], 1)),
    "images": lambda x, y: (x[:, None, :], y[:, None, None].expand(-1, 1, 2).double()),
    "no rows": lambda x, y: (x[:0], y[:0]),
    "data to be learned": lambda x, y: (x.clone().requires_grad_(), y),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_other_batches_are_left_to_autograd(kind):
    criterion = mse_loss if kind == "images" else cross_entropy
    loss_fn, (own,), ((x, y),) = draw(WRITTEN_OUT["two activations"](), cross_entropy, tasks=1)
    loss_fn, batch = functional_loss(loss_fn.model, criterion), UNUSUAL[kind](x, y)
    plain = faster_loss(loss_fn, own)
    assert plain.with_gradient(own, batch) is None
    torch.testing.assert_close(plain(own, batch), loss_fn(own, batch), equal_nan=True)
    if kind == "data to be learned":
        loss, grads = loss_and_gradient(plain, own, batch)
        assert torch.autograd.grad(grads["0.weight"].sum(), batch[0])[0].abs().max() > 0


def test_targets_to_be_learned_get_their_gradient_through_the_inner_one():
    loss_fn, (own,), ((x, _),) = draw(WRITTEN_OUT["a line"](), cross_entropy, tasks=1)
    loss_fn = functional_loss(loss_fn.model, mse_loss)
    targets = torch.zeros_like(loss_fn.model(x)).requires_grad_()
    _, grads = loss_and_gradient(faster_loss(loss_fn, own), own, (x, targets))
    (found,) = torch.autograd.grad(grads["bias"].sum(), targets)
    # d/d bias of mean (y - t)^2 is 2 (y - t) / n, whose slope in t is -2 / n
    torch.testing.assert_close(found, torch.full_like(found, -2 / targets.numel()))


def test_mixed_precision_is_left_to_autograd():
    loss_fn, (own,), (batch,) = draw(WRITTEN_OUT["a line"](), cross_entropy, tasks=1)
    with torch.autocast("cpu"):
        assert faster_loss(loss_fn, own).with_gradient(own, batch) is None


def test_an_unroll_inside_torch_func():
    loss_fn, (own,), batches = draw(WRITTEN_OUT["two activations"](), cross_entropy, tasks=1)
    own, rule = {n: p.requires_grad_() for n, p in own.items()}, learned_rule()
    found = torch.func.grad(lambda p: unroll(loss_fn, p, batches * 3, rule).losses.sum())(own)
    losses = unroll(loss_fn, own, batches * 3, rule).losses
    reference = torch.autograd.grad(losses.sum(), list(own.values()))
    for ours, theirs in zip(found.values(), reference):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("used", [["0.bias"], ["2.weight"], ["0.weight", "4.weight"]])
def test_gradients_that_nobody_uses_have_no_part(used):
    loss_fn, (own,), (batch,) = draw(WRITTEN_OUT["two activations"](), cross_entropy, tasks=1)
    own, found = {n: p.requires_grad_() for n, p in own.items()}, []
    for loss_and_grads in (faster_loss(loss_fn, own).with_gradient, None):
        grads = (
            loss_and_grads(own, batch) if loss_and_grads else by_autograd(loss_fn, batch)(own)
        )[1]
        total = sum((grads[name] ** 2).sum() for name in used)
        found.append(torch.autograd.grad(total, list(own.values()), materialize_grads=True))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_names_in_another_order():
    loss_fn, (own,), (batch,) = draw(WRITTEN_OUT["two activations"](), cross_entropy, tasks=1)
    turned = {name: own[name].requires_grad_() for name in reversed(own)}
    loss, grads = faster_loss(loss_fn, turned).with_gradient(turned, batch)
    assert list(grads) == list(turned)
    for name, grad in by_autograd(loss_fn, batch)(turned)[1].items():
        torch.testing.assert_close(grads[name], grad)


def test_a_weight_changed_before_the_backward_pass_is_noticed():
    loss_fn, (own,), (batch,) = draw(WRITTEN_OUT["two activations"](), cross_entropy, tasks=1)
    own = {n: p.requires_grad_() for n, p in own.items()}
    loss, grads = faster_loss(loss_fn, own).with_gradient(own, batch)
    with torch.no_grad():
        own["2.weight"].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(grads["0.weight"].sum(), own["0.weight"])
