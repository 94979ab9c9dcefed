"""Level 1: a pure loss that is the module's own, and refuses what cannot be pure."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nested import functional_loss

BATCH = torch.randn(6, 3), torch.randn(6, 2)


def test_it_is_the_modules_own_loss_and_gradient():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    loss_fn = functional_loss(model, nn.functional.mse_loss)
    params = dict(model.named_parameters())
    loss = loss_fn(params, BATCH)
    expected = nn.functional.mse_loss(model(BATCH[0]), BATCH[1])
    assert torch.equal(loss, expected)
    ours = torch.autograd.grad(loss, list(params.values()))
    theirs = torch.autograd.grad(expected, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert loss_fn.model is model and loss_fn.criterion is nn.functional.mse_loss


def test_it_depends_on_params_not_on_the_models_weights():
    model = nn.Linear(3, 2)
    loss_fn = functional_loss(model, nn.functional.mse_loss)
    params = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    before = loss_fn(params, BATCH)
    nn.init.ones_(model.weight)
    assert torch.equal(loss_fn(params, BATCH), before)
    torch.testing.assert_close(before, (BATCH[1] ** 2).mean())


def test_tied_weights_are_moved_together():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    weight, x = torch.randn(3, 3), torch.randn(6, 3)
    loss_fn = functional_loss(Tied(), nn.functional.mse_loss)
    expected = nn.functional.mse_loss(x @ weight.T @ weight.T, x)
    torch.testing.assert_close(loss_fn({"a.weight": weight}, (x, x)), expected)


@pytest.mark.parametrize("change", ["missing", "unknown", "renamed"])
def test_names_that_are_not_the_models_are_refused(change):
    model = nn.Linear(3, 2)
    params = dict(model.named_parameters())
    if change in ("missing", "renamed"):
        bias = params.pop("bias")
    if change in ("unknown", "renamed"):
        params["beta"] = torch.zeros(2) if change == "unknown" else bias
    with pytest.raises(ValueError, match="params do not match the model: missing"):
        functional_loss(model, nn.functional.mse_loss)(params, BATCH)


def test_a_batch_that_is_not_a_pair_is_refused():
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="a batch is a pair"):
        functional_loss(model, nn.functional.mse_loss)(dict(model.named_parameters()), BATCH[0])


def test_frozen_parameters_are_constants_and_may_be_left_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    loss_fn = functional_loss(model, nn.functional.mse_loss)
    params = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    loss = loss_fn(params, BATCH)
    grads = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
    moved = {name for name, g in zip(params, grads, strict=True) if g.abs().sum() > 0}
    assert moved == {"1.weight", "1.bias"}
    head = {name: p for name, p in params.items() if name.startswith("1")}
    assert torch.equal(loss_fn(head, BATCH), loss)


def test_buffers_are_used_as_they_are():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    model[1].running_mean.fill_(0.7)
    loss_fn = functional_loss(model, nn.functional.mse_loss)
    loss = loss_fn(dict(model.named_parameters()), BATCH)
    assert torch.equal(loss, nn.functional.mse_loss(model(BATCH[0]), BATCH[1]))


class Counter(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.weight, self.in_place = nn.Parameter(torch.ones(2, 3)), in_place
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.calls.add_(1)
        else:
            self.calls = self.calls + 1
        return x @ self.weight.T


@pytest.mark.parametrize("model", [Counter(True), Counter(False), nn.BatchNorm1d(3)])
def test_a_model_that_writes_to_its_buffers_is_refused_and_left_unchanged(model):
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    batch = BATCH if isinstance(model, Counter) else (BATCH[0], BATCH[0])
    with pytest.raises(ValueError, match="writes to its buffers"):
        functional_loss(model, nn.functional.mse_loss)(dict(model.named_parameters()), batch)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())


class TwoInputs(nn.Module):
    """Takes two inputs; with labels it returns its own loss, in one of the usual ways."""

    def __init__(self, returns="logits"):
        super().__init__()
        self.head, self.returns = nn.Linear(3, 2), returns

    def forward(self, x, scale, labels=None):
        logits = self.head(x) * scale
        if labels is None:
            return logits
        loss = nn.functional.mse_loss(logits, labels)
        outputs = {
            "logits": logits,
            "scalar": loss,
            "dict": {"loss": loss, "logits": logits},
            "object": SimpleNamespace(loss=loss, logits=logits),
        }
        return outputs[self.returns]


@pytest.mark.parametrize(
    "batch",
    [
        ((BATCH[0], 2.0), BATCH[1]),
        ([BATCH[0], torch.tensor(2.0)], BATCH[1]),
        ({"scale": 2.0, "x": BATCH[0]}, BATCH[1]),
        {"targets": BATCH[1], "x": BATCH[0], "scale": 2.0},
    ],
)
def test_a_model_may_take_several_inputs(batch):
    model = TwoInputs()
    loss = functional_loss(model, nn.functional.mse_loss)(dict(model.named_parameters()), batch)
    expected = nn.functional.mse_loss(2 * model.head(BATCH[0]), BATCH[1])
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("returns", ["scalar", "dict", "object"])
@pytest.mark.parametrize("kind", [tuple, dict])
def test_a_model_may_return_its_own_loss(returns, kind):
    model = TwoInputs(returns)
    batch = (BATCH[0], 2.0, BATCH[1])
    batch = dict(zip(("x", "scale", "labels"), batch)) if kind is dict else batch
    loss = functional_loss(model)(dict(model.named_parameters()), batch)
    expected = nn.functional.mse_loss(2 * model.head(BATCH[0]), BATCH[1])
    torch.testing.assert_close(loss, expected)


def test_a_model_that_returns_no_loss_of_its_own_needs_a_criterion():
    class Pair(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    model = Pair(3, 2)
    with pytest.raises(TypeError, match="without a criterion the model returns its own loss.*pass"):
        functional_loss(model)(dict(model.named_parameters()), BATCH[0])
