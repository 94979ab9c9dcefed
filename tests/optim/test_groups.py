"""What a group may hold: an optimizer's settings and a scheduler's keys, but nothing misspelt."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, LambdaLR, OneCycleLR
from torch.optim.swa_utils import SWALR

from nested.optim import DGD, M3, DeepMomentum, DeltaMomentum, NestedOptimizer
from nested.rules import LearnedOptimizer, load_rule

MISSPELT = {  # optimizers, a misspelt setting, and what was meant
    "DGD": (lambda groups, net: DGD(groups, 0.1, module=net), "reductoin", "reduction"),
    "DeltaMomentum": (lambda groups, net: DeltaMomentum(groups, 0.1), "unitkey", "unit_key"),
    "DeepMomentum": (lambda groups, net: DeepMomentum(groups, 0.1), "momentums", "momentum"),
    "M3": (lambda groups, net: M3(groups, 0.1), "periods", "period"),
    "Nested": (lambda groups, net: NestedOptimizer(groups, lr=0.1), "periods", "period"),
    "Nested SGD": (
        lambda groups, net: NestedOptimizer(groups, torch.optim.SGD, lr=0.1),
        "weight_decays",
        "weight_decay",
    ),
    "Learned": (
        lambda groups, net: LearnedOptimizer(groups, load_rule(), total_steps=9),
        "lrs",
        "lr",
    ),
}
KEYS = {"initial_lr": 0.1, "max_lr": 0.1, "min_lr": 0.0, "swa_lr": 0.1, "base_momentum": 0.8}
KEYS |= {"max_momentum": 0.9, "param_names": ["weight"], "name": "first", "_mine": 3}
SCHEDULERS = {
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda k: 1.0),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, 3),
    "CyclicLR": lambda optimizer: CyclicLR(optimizer, 0.01, 0.1, cycle_momentum=False),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, 0.1, 9, cycle_momentum=False),
    "SWALR": lambda optimizer: SWALR(optimizer, 0.1),
}


@pytest.fixture(params=MISSPELT)
def case(request):
    return MISSPELT[request.param]


@pytest.mark.parametrize("key", ["wrong", "periods ", "fooreach", "LR", "base"])
def test_a_key_that_is_no_setting_is_refused(case, key):
    make, _, _ = case
    make, _, _ = case
    if (
        key == "foreach"
        and "foreach" in make([nn.Parameter(torch.ones(2))], nn.Linear(1, 1)).defaults
    ):
        key = "fooreach"
    with pytest.raises(ValueError, match=f"'{key}' is no setting of a group"):
        make([{"params": [nn.Parameter(torch.ones(2))], key: 1}], nn.Linear(2, 2))


def test_a_misspelt_setting_is_refused_and_named(case):
    make, wrong, right = case
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    said = f"'{wrong}' is no setting of a group.* did you mean '{right}'"
    with pytest.raises(ValueError, match=said):
        make([{"params": [p], wrong: 2}], nn.Linear(2, 2))
    optimizer = make([p], nn.Linear(2, 2))
    with pytest.raises(ValueError, match=said):
        optimizer.add_param_group({"params": [q], wrong: 2})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [q]})  # as if nothing had been asked
    assert len(optimizer.param_groups) == 2


def test_a_state_with_a_key_that_is_no_setting_is_refused(case):
    make, wrong, _ = case
    optimizer = make([nn.Parameter(torch.ones(2))], nn.Linear(2, 2))
    saved = optimizer.state_dict()
    saved["param_groups"][0][wrong] = 2
    with pytest.raises(ValueError, match=f"'{wrong}' is no setting of a group"):
        optimizer.load_state_dict(saved)
    assert wrong not in optimizer.param_groups[0]


def test_keys_of_schedulers_names_and_those_that_begin_with_an_underscore_are_allowed(case):
    make, _, _ = case
    keys = {key: value for key, value in KEYS.items() if key != "param_names"}
    optimizer = make([{"params": [nn.Parameter(torch.ones(2))], **keys}], nn.Linear(2, 2))
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **keys})
    optimizer.load_state_dict(optimizer.state_dict())
    assert all(group["_mine"] == 3 for group in optimizer.param_groups)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_under_a_scheduler_is_saved_and_loaded(case, name):
    make, _, _ = case
    net = nn.Linear(2, 2)
    optimizer = make([{"params": list(net.parameters())}], net)
    scheduler = SCHEDULERS[name](optimizer)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # DGD names what it did not see
        optimizer.step()
    scheduler.step()
    make([{"params": list(net.parameters())}], net).load_state_dict(optimizer.state_dict())


def test_named_parameters_keep_their_names():
    net = nn.Linear(2, 2)
    optimizer = DeltaMomentum(net.named_parameters(), 0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    optimizer.load_state_dict(optimizer.state_dict())
    nested = NestedOptimizer([{"params": list(net.named_parameters()), "period": 2}], lr=0.1)
    nested.load_state_dict(nested.state_dict())
    assert nested.param_groups[0]["param_names"] == ["weight", "bias"]
