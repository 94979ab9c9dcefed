"""Levels 2 and 3 are PyTorch's momentum SGD, and differentiable in everything."""

import pytest
import torch

from nested import momentum_step, slow_weights_step


def run_levels(weight, grads, lrs, momentum):
    params, buffer = {"w": weight}, {"w": torch.zeros_like(weight)}
    for grad, lr in zip(grads, lrs, strict=True):
        buffer = momentum_step(buffer, {"w": grad}, momentum)
        params = slow_weights_step(params, buffer, lr)
    return params["w"]


def run_paper(weight, grads, lrs, momentum):
    """m <- a m - eta g, W <- W + m (eq. 10-13), written from the paper."""
    memory = torch.zeros_like(weight)
    for grad, lr in zip(grads, lrs, strict=True):
        memory = momentum * memory - lr * grad
        weight = weight + memory
    return weight


def run_torch(weight, grads, lrs, momentum):
    weight = weight.clone().requires_grad_()
    sgd = torch.optim.SGD([weight], lr=1.0, momentum=momentum)
    for grad, lr in zip(grads, lrs, strict=True):
        weight.grad = grad.clone()
        sgd.param_groups[0]["lr"] = lr
        sgd.step()
    return weight.detach()


@pytest.fixture
def stream():
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(51, 4, generator=generator, dtype=torch.float64)
    return draw[0], list(draw[1:])


@pytest.mark.parametrize("lrs", [[0.1] * 50, [0.1 * 0.95**k for k in range(50)]])
def test_they_are_torch_sgd_at_any_schedule(stream, lrs):
    ours, theirs = run_levels(*stream, lrs, 0.9), run_torch(*stream, lrs, 0.9)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_papers_form_is_the_same_only_while_the_learning_rate_is_constant(stream):
    constant, falling = [0.1] * 50, [0.1 * 0.95**k for k in range(50)]
    same = run_levels(*stream, constant, 0.9), run_paper(*stream, constant, 0.9)
    torch.testing.assert_close(*same, rtol=0, atol=1e-12)
    apart = run_levels(*stream, falling, 0.9) - run_paper(*stream, falling, 0.9)
    assert apart.abs().max() > 0.05


def test_both_are_differentiable_in_every_argument():
    def both(weight, buffer, grad, lr, momentum):
        moved = momentum_step({"w": buffer}, {"w": grad}, momentum)
        return slow_weights_step({"w": weight}, moved, lr)["w"], moved["w"]

    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(3)]
    numbers = [torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)]
    assert torch.autograd.gradcheck(both, [x.requires_grad_() for x in parts + numbers])
