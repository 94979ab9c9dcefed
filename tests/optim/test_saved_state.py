"""State that is saved, looked at and loaded: it is a copy, and no look at it is a step."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.utils._pytree import tree_leaves

from nested.optim import M3, NestedOptimizer, periods_by_depth
from nested.rules import LearnedOptimizer, load_rule
from tests.optim.runs import OPTIMIZERS, make_net, same, train

CUTS = (1, 2, 3, 4, 6)
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


@pytest.fixture(params=OPTIMIZERS)
def make(request):
    return OPTIMIZERS[request.param]


def tensors(optimizer):
    found = tree_leaves([optimizer.state_dict()["state"], optimizer.state_dict()["param_groups"]])
    return [leaf for leaf in found if isinstance(leaf, torch.Tensor) and leaf.numel()]


def test_a_loaded_state_is_a_copy(make):
    net, other = make_net(), make_net()
    ours, theirs = make(net), make(other)
    train(net, ours, range(5))
    saved = ours.state_dict()
    theirs.load_state_dict(saved)
    places = {leaf.untyped_storage().data_ptr() for leaf in tensors(ours)}
    assert not places & {leaf.untyped_storage().data_ptr() for leaf in tensors(theirs)}
    kept = [leaf.clone() for leaf in tensors(theirs)]
    train(net, ours, range(5, 12))
    assert same(tensors(theirs), kept)


def test_a_run_that_was_loaded_leaves_what_it_was_loaded_from(make):
    net, other = make_net(), make_net()
    ours, theirs = make(net), make(other)
    train(net, ours, range(5))
    kept = [leaf.clone() for leaf in tensors(ours)]
    other.load_state_dict(net.state_dict())
    theirs.load_state_dict(ours.state_dict())
    after = train(other, theirs, range(5, 12))
    assert same(tensors(ours), kept)
    assert same(train(net, ours, range(5, 12)), after)


def test_a_state_is_loaded_twice_and_by_an_optimizer_that_was_loaded(make):
    """torch adds a setting, "differentiable", to the defaults of what was loaded or unpickled."""
    net = make_net()
    optimizer = make(net)
    train(net, optimizer, range(2))
    saved = optimizer.state_dict()
    for _ in range(2):
        optimizer.load_state_dict(saved)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    again = make(net)
    again.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    again.load_state_dict(optimizer.state_dict())


def numbers(optimizer):
    """All that counts in a state: whatever is no tensor, and the sums of what is."""
    state = optimizer.state_dict()
    return {
        "groups": [{**group, "params": None} for group in state["param_groups"]],
        "clocks": [
            (key, value)
            for kept in state["state"].values()
            for key, value in kept.items()
            if isinstance(value, int)
        ],
    }


@pytest.mark.parametrize("options", [None, FLAT], ids=["nested", "flat"])
def test_looking_at_a_fresh_optimizer_is_no_step(make, options):
    expected_net = make_net()
    expected = train(expected_net, make(expected_net), range(8))
    net = make_net()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = make(net)
    groups = [{**group, "params": None} for group in optimizer.param_groups]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", refuse_to_warn)
        for _ in range(2):
            get_optimizer_state_dict(net, optimizer, options=options)
    assert same([p.detach() for p in net.parameters()], before)
    assert [{**group, "params": None} for group in optimizer.param_groups] == groups
    assert all(not count for _, count in numbers(optimizer)["clocks"] if _ != "rows")
    assert same(train(net, optimizer, range(8)), expected)


def refuse_to_warn(*said, **_):
    raise AssertionError(f"a look warned: {said}")


@pytest.mark.parametrize("options", [None, FLAT], ids=["nested", "flat"])
@pytest.mark.parametrize("cut", [0, *CUTS])
def test_a_run_saved_and_loaded_through_torch_distributed_goes_on(make, cut, options):
    whole = make_net()
    expected = train(whole, make(whole), range(12))
    net = make_net()
    optimizer = make(net)
    train(net, optimizer, range(cut))
    optimizer.zero_grad()
    file = io.BytesIO()
    state = get_optimizer_state_dict(net, optimizer, options=options)
    torch.save({"net": get_model_state_dict(net), "optimizer": state}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = make_net()
    again.load_state_dict(saved["net"])
    optimizer = make(again)
    set_optimizer_state_dict(again, optimizer, saved["optimizer"], options=options)
    assert same(train(again, optimizer, range(cut, 12)), expected)


@pytest.mark.parametrize("options", [None, FLAT], ids=["nested", "flat"])
def test_a_weight_that_never_has_a_gradient_is_saved_and_loaded(make, options):
    """torch's own classes are refused here, or get a dict in place of a tensor."""
    runs = []
    for is_cut in (False, True):
        net = make_net()
        net.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
        optimizer = make(net)
        after = train(net, optimizer, range(5))
        if is_cut:
            optimizer.zero_grad()
            saved = get_optimizer_state_dict(net, optimizer, options=options)
            optimizer = make(net)
            set_optimizer_state_dict(net, optimizer, saved, options=options)
        after = train(net, optimizer, range(5, 12))
        assert torch.equal(net.unused, torch.ones(2, 2))
        runs.append(after)
    assert same(*runs)


@pytest.mark.parametrize("cut", [0, 1, 5])
def test_a_run_goes_on_from_the_files_of_torch_distributed(make, cut, tmp_path):
    whole = make_net()
    expected = train(whole, make(whole), range(8))
    net = make_net()
    optimizer = make(net)
    train(net, optimizer, range(cut))
    optimizer.zero_grad()
    saved = {"net": net.state_dict(), "optimizer": get_optimizer_state_dict(net, optimizer)}
    checkpoint.save(saved, checkpoint_id=tmp_path, no_dist=True)
    again = make_net()
    optimizer = make(again)
    kept = {"net": again.state_dict(), "optimizer": get_optimizer_state_dict(again, optimizer)}
    checkpoint.load(kept, checkpoint_id=tmp_path, no_dist=True)
    again.load_state_dict(kept["net"])
    set_optimizer_state_dict(again, optimizer, kept["optimizer"])
    assert same(train(again, optimizer, range(cut, 8)), expected)


def test_a_loaded_state_of_a_learned_optimizer_is_a_copy():
    nets = [make_net(), make_net()]
    ours, theirs = (LearnedOptimizer(net.parameters(), load_rule(), total_steps=9) for net in nets)
    train(nets[0], ours, range(3))
    theirs.load_state_dict(ours.state_dict())
    kept = [leaf.clone() for leaf in tensors(theirs)]
    assert kept
    train(nets[0], ours, range(3, 6))
    assert same(tensors(theirs), kept)


@pytest.mark.parametrize("cut", CUTS)
def test_looking_at_a_running_optimizer_is_no_step(make, cut):
    whole = make_net()
    expected = train(whole, make(whole), range(12))
    net = make_net()
    optimizer = make(net)
    train(net, optimizer, range(cut))
    optimizer.zero_grad()
    get_optimizer_state_dict(net, optimizer)
    assert same(train(net, optimizer, range(cut, 12)), expected)


def test_a_step_at_a_rate_of_zero_is_a_step():
    """A schedule may begin there; only gradients that are zero as well are a look."""
    net = make_net()
    optimizer = M3(net.parameters(), 0.0)
    train(net, optimizer, range(3))
    assert optimizer.state[net[0].weight]["step"] == 3
    nested = NestedOptimizer(periods_by_depth(net, (4, 1)), lr=0.0)
    train(net, nested, range(4))
    assert nested.moves() == {"depth 0": 1, "depth 1": 4}


def test_copies_and_pickles_of_an_optimizer_that_was_looked_at(make):
    net = make_net()
    optimizer = make(net)
    if type(optimizer).__name__ == "DGD":
        pytest.skip("a DGD belongs to its module")
    get_optimizer_state_dict(net, optimizer)
    twin, twin_optimizer = copy.deepcopy((net, optimizer))
    assert same(train(net, optimizer, range(6)), train(twin, twin_optimizer, range(6)))
    file = io.BytesIO()
    torch.save((net, optimizer), file)
    file.seek(0)
    twin, twin_optimizer = torch.load(file, weights_only=False)
    assert same(train(net, optimizer, range(6, 12)), train(twin, twin_optimizer, range(6, 12)))


def test_the_state_of_another_base_is_refused():
    p = nn.Parameter(torch.zeros(2))
    saved = NestedOptimizer([p], torch.optim.Adam).state_dict()
    for group in saved["param_groups"]:
        group.update(torch.optim.AdamW.__init__.__kwdefaults__ or {})
    with pytest.raises(ValueError, match="base Adam, but here it is AdamW"):
        NestedOptimizer([p], torch.optim.AdamW).load_state_dict(saved)
