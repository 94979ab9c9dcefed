"""What all optimizers of the room refuse, and what is left when they did."""

import pytest
import torch
from torch import nn

from nested.optim import DGD, M3, DeepMomentum, DeltaMomentum

ALL = {
    "DGD": lambda params: DGD(params, 0.1, module=nn.Linear(2, 2)),
    "DeltaMomentum": lambda params: DeltaMomentum(params, 0.1),
    "DeepMomentum": lambda params: DeepMomentum(params, 0.1),
    "M3": lambda params: M3(params, 0.1),
}


@pytest.fixture(params=ALL)
def make(request):
    return ALL[request.param]


def weight(*shape, dtype=torch.float32):
    return nn.Parameter(torch.ones(shape, dtype=dtype))


def test_a_refused_group_leaves_the_optimizer_as_it_was(make):
    optimizer = make([weight(2, 2)])
    with pytest.raises(ValueError, match="lr is 0 or more, and finite, but got -1"):
        optimizer.add_param_group({"params": [weight(2)], "lr": -1})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("lr", [True, None, "0.1", torch.tensor([0.1, 0.2]), float("nan")])
def test_a_rate_is_one_number(make, lr):
    with pytest.raises(ValueError, match="lr is 0 or more, and finite"):
        make([{"params": [weight(2)], "lr": lr}])


def test_complex_weights_and_sparse_gradients_are_refused(make):
    with pytest.raises(ValueError, match="takes real parameters, but got a complex one"):
        make([weight(2, dtype=torch.complex64)])
    p = weight(2, 2)
    before, optimizer = p.detach().clone(), make([p])
    p.grad = torch.ones(2, 2).to_sparse()
    with pytest.raises(RuntimeError, match="takes no sparse gradients"):
        optimizer.step()
    assert torch.equal(p, before)


def test_the_state_of_another_optimizer_is_refused_before_anything_changes(make):
    p = weight(2, 2)
    other = torch.optim.Adagrad([p], 0.3)
    optimizer = make([p])
    saved = {**other.state_dict(), "param_groups": [{"params": [0], "lr": 0.3}]}
    if type(optimizer).__name__ != "DeltaMomentum":
        saved["param_groups"][0]["unit_key"] = False
    with pytest.raises(ValueError, match="this is the state of another optimizer than"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_state_without_its_parts_or_with_wrong_settings_is_refused(make):
    optimizer = make([weight(2, 2)])
    with pytest.raises(ValueError, match="it has no state, param_groups"):
        optimizer.load_state_dict({})
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = -1
    with pytest.raises(ValueError, match="lr is 0 or more, and finite, but got -1"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("name", ["DeltaMomentum", "DeepMomentum", "M3"])
def test_the_state_of_weights_of_another_shape_is_refused(name):
    p, q = weight(2, 3), weight(3, 2)
    one, other = ALL[name]([p]), ALL[name]([q])
    p.grad = torch.ones_like(p)
    one.step()
    with pytest.raises(ValueError, match=r"one was \(2, 3\), but here one is \(3, 2\)"):
        other.load_state_dict(one.state_dict())


def test_switches_are_true_or_false():
    with pytest.raises(ValueError, match="unit_key is True or False, but got 'no'"):
        DeltaMomentum([weight(2)], 0.1, unit_key="no")
