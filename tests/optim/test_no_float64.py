"""No float64 where the weights are float32: a device such as Apple's has none."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nested.optim import M3, newton_schulz
from nested.optim.dgd import forget
from tests.optim.runs import OPTIMIZERS, make_net, train


class NoFloat64(TorchDispatchMode):
    """Refuse every operation that takes or makes a float64 tensor, as a device without does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves([args, kwargs, out]):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                raise AssertionError(f"{function} met float64")
        return out


def test_the_mode_refuses_float64():
    with NoFloat64(), pytest.raises(AssertionError, match="met float64"):
        torch.ones(2).double()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimizer_makes_its_steps_without_float64(name, dtype):
    net = make_net(dtype)
    with NoFloat64(), warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = OPTIMIZERS[name](net)
        train(net, optimizer, range(5))
        optimizer.load_state_dict(optimizer.state_dict())
        train(net, optimizer, range(5, 7))


@pytest.mark.parametrize("rows", [3, 30])
@pytest.mark.parametrize("lr", [0.01, 1.0])
def test_least_squares_of_dgd_need_none(rows, lr):
    with NoFloat64():
        inputs, weight, grad = torch.randn(rows, 12), torch.randn(3, 12), torch.randn(3, 12)
        assert forget(weight, inputs, lr, grad, lr).isfinite().all()


def test_orthogonalisation_needs_none():
    with NoFloat64():
        newton_schulz(torch.randn(4, 6))
        net = make_net()
        train(net, M3(net.parameters(), 0.1, ns_dtype=torch.float32), range(2))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_default_dtype_changes_nothing(name, default):
    runs = []
    for dtype in (torch.float32, default):
        net = make_net()
        torch.set_default_dtype(dtype)
        try:
            optimizer = OPTIMIZERS[name](net)
            for _ in range(3):
                optimizer.zero_grad()
                generator = torch.Generator().manual_seed(0)
                x = torch.randn(4, 5, generator=generator, dtype=torch.float32)
                net(x).square().mean().backward()
                optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
        runs.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs))
