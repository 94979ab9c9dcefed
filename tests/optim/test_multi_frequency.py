"""The multi-frequency optimizer against its base, and against sums made by hand."""

import copy

import pytest
import torch
from torch import Generator, nn

from nested.optim import DGD, M3, NestedOptimizer, periods_by_depth, periods_by_name

BASES = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.AdamW, {"lr": 0.01}),
    (torch.optim.Adam, {"lr": 0.01, "foreach": True}),
    (torch.optim.RMSprop, {"lr": 0.01}),
    (torch.optim.Rprop, {"lr": 0.01}),
]


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2)
        )


def batch(k):
    generator = Generator().manual_seed(k)
    return torch.randn(8, 5, generator=generator), torch.randn(8, 2, generator=generator)


def step(net, optimizer, k):
    inputs, targets = batch(k)
    optimizer.zero_grad()
    nn.functional.mse_loss(net(inputs), targets).backward()
    optimizer.step()


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("base, settings", BASES, ids=lambda x: getattr(x, "__name__", ""))
def test_with_all_periods_1_it_is_its_base_bit_for_bit(base, settings):
    ours, theirs = make_net(), make_net()
    nested = NestedOptimizer(periods_by_depth(ours, (1, 1)), base, **settings)
    plain = base(theirs.parameters(), **settings)
    for k in range(10):
        step(ours, nested, k)
        step(theirs, plain, k)
    assert torch.equal(flat(ours), flat(theirs))


@pytest.mark.parametrize("reduction, moved", [("sum", -98.0), ("mean", -98.0 / 3)])
def test_gradients_1_1_and_minus_100_at_period_3_move_by_their_sum(reduction, moved):
    p = nn.Parameter(torch.zeros(()))
    groups = [{"params": [p], "period": 3}]
    optimizer = NestedOptimizer(groups, torch.optim.SGD, reduction=reduction, lr=1.0)
    for k, grad in enumerate((1.0, 1.0, -100.0, 1.0)):
        p.grad = torch.tensor(grad)
        optimizer.step()
        assert p.grad == grad  # the gradients are still there to look at
        assert p.item() == (0 if k < 2 else pytest.approx(-moved))


@pytest.mark.parametrize("base, settings", BASES, ids=lambda x: getattr(x, "__name__", ""))
def test_each_group_is_its_base_on_sums(base, settings):
    ours, theirs = make_net(), make_net()
    periods = (4, 3, 1)
    nested = NestedOptimizer(periods_by_depth(ours, periods), base, **settings)
    groups = periods_by_depth(theirs, periods)
    alone = [base(group["params"], **settings) for group in groups]
    sums = [[torch.zeros_like(p) for p in group["params"]] for group in groups]
    for k in range(1, 13):
        step(ours, nested, k)
        inputs, targets = batch(k)
        theirs.zero_grad()
        nn.functional.mse_loss(theirs(inputs), targets).backward()
        for group, optimizer, total in zip(groups, alone, sums):
            for p, s in zip(group["params"], total):
                s += p.grad
            if k % group["period"] == 0:
                for p, s in zip(group["params"], total):
                    p.grad = s.clone()
                    s.zero_()
                optimizer.step()
    assert torch.equal(flat(ours), flat(theirs))
    assert nested.moves() == {"depth 0": 3, "depth 1": 4, "depth 2": 12}


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_saved_run_goes_on_bit_for_bit_also_off_the_clock(cut, tmp_path):
    def make(net):
        return NestedOptimizer(periods_by_depth(net, (4, 3, 1)), torch.optim.AdamW, lr=0.05)

    whole = make_net()
    optimizer = make(whole)
    for k in range(12):
        step(whole, optimizer, k)
    net = make_net()
    optimizer = make(net)
    for k in range(cut):
        step(net, optimizer, k)
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "saved")
    saved = torch.load(tmp_path / "saved", weights_only=True)
    again = make_net()
    again.load_state_dict(saved["net"])
    optimizer = make(again)
    optimizer.load_state_dict(saved["optimizer"])
    for k in range(cut, 12):
        step(again, optimizer, k)
    assert torch.equal(flat(again), flat(whole))
    assert optimizer.moves() == {"depth 0": 3, "depth 1": 4, "depth 2": 12}


def test_a_scheduler_reaches_the_base_also_after_loading():
    net = make_net()
    optimizer = NestedOptimizer(net.parameters(), torch.optim.SGD, lr=1.0)
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: float(k == 0))
    step(net, optimizer, 0)
    scheduler.step()
    before = flat(net)
    step(net, optimizer, 1)
    assert torch.equal(flat(net), before) and optimizer.base.param_groups[0]["lr"] == 0


def test_a_weight_without_a_gradient_at_the_firing_step_moves_by_what_came_before():
    p = nn.Parameter(torch.zeros(()))
    optimizer = NestedOptimizer([{"params": [p], "period": 2}], torch.optim.SGD, lr=1.0)
    p.grad = torch.tensor(3.0)
    optimizer.step()
    p.grad = None
    optimizer.step()
    assert p.item() == -3 and p.grad is None


def test_a_copy_runs_on_its_own():
    net = make_net()
    optimizer = NestedOptimizer(periods_by_depth(net, (3, 1)), torch.optim.AdamW, lr=0.05)
    for k in range(4):
        step(net, optimizer, k)
    twin, twin_optimizer = copy.deepcopy((net, optimizer))
    for k in range(4, 9):
        step(net, optimizer, k)
    assert not torch.equal(flat(net), flat(twin))
    for k in range(4, 9):
        step(twin, twin_optimizer, k)
    assert torch.equal(flat(net), flat(twin))


def test_a_group_added_later_has_its_own_clock():
    net = make_net()
    optimizer = NestedOptimizer(net[0].parameters(), torch.optim.SGD, lr=0.1)
    step(net, optimizer, 0)
    optimizer.add_param_group({"params": net[2].parameters(), "period": 2, "name": "late"})
    before = net[2].weight.detach().clone()
    step(net, optimizer, 1)
    assert torch.equal(net[2].weight, before)
    step(net, optimizer, 2)
    assert not torch.equal(net[2].weight, before)
    assert optimizer.moves() == {"group 0": 3, "late": 1}


def test_periods_by_name_takes_the_longest_name():
    net = nn.ModuleDict({"a": make_net(), "ab": nn.Linear(1, 1)})
    groups = periods_by_name(net, {"": 7, "a": 5, "a.2": 3, "a.2.bias": 2})
    names = {id(p): name for name, p in net.named_parameters()}
    found = {g["name"]: (g["period"], {names[id(p)] for p in g["params"]}) for g in groups}
    assert found == {
        "all others": (7, {"ab.weight", "ab.bias"}),
        "a": (5, {"a.0.weight", "a.0.bias", "a.4.weight", "a.4.bias"}),
        "a.2": (3, {"a.2.weight"}),
        "a.2.bias": (2, {"a.2.bias"}),
    }
    with pytest.raises(ValueError, match=r"no parameter lies under \['b'\]: there are \['a.0"):
        periods_by_name(net, {"b": 2})


def test_tied_weights_are_in_one_group():
    net = make_net()
    net[2].weight = nn.Parameter(torch.zeros(3, 6))
    net.append(net[2])
    groups = periods_by_depth(net, (3, 1))
    together = [p for group in groups for p in group["params"]]
    assert len(together) == len(set(together)) == 6


def test_wrong_settings_are_refused():
    p = nn.Parameter(torch.zeros(2))
    for wrong, said in (
        ({"params": [{"params": [p], "period": 0}]}, "period is a whole number from 1, but got 0"),
        ({"params": [{"params": [p], "period": 2.0}]}, "period is a whole number from 1"),
        ({"params": [p], "reduction": "max"}, "reduction is one of"),
        (
            {"params": [p], "base": torch.optim.LBFGS},
            "base cannot be LBFGS, which evaluates the loss",
        ),
        ({"params": [p], "base": "AdamW"}, "base is a torch.optim class"),
    ):
        with pytest.raises(ValueError, match=said):
            NestedOptimizer(**wrong)
    for base in (DGD, NestedOptimizer):
        with pytest.raises(ValueError, match=f"base cannot be {base.__name__}, which"):
            NestedOptimizer([p], base)
    with pytest.raises(ValueError, match="empty parameter list: was a generator used twice"):
        NestedOptimizer(iter([]))
    for wrong in (p, {"params": [p]}):
        with pytest.raises(TypeError, match="put it in a list"):
            NestedOptimizer(wrong)
    with pytest.raises(TypeError, match="a group is a dict"):
        NestedOptimizer([{"period": 2}])
    with pytest.raises(ValueError, match="3 layers take 1 to 3 periods"):
        periods_by_depth(make_net(), (1, 1, 1, 1))


def test_each_group_has_the_mean_over_its_own_period_an_added_one_too():
    first, second, late = (nn.Parameter(torch.zeros(())) for _ in range(3))
    groups = [{"params": [first], "period": 2}, {"params": [second], "period": 4}]
    optimizer = NestedOptimizer(groups, torch.optim.SGD, "mean", lr=1.0)
    optimizer.add_param_group({"params": [late], "period": 4, "reduction": "sum"})
    for _ in range(4):
        for p in (first, second, late):
            p.grad = torch.tensor(1.0)
        optimizer.step()
    assert (first.item(), second.item(), late.item()) == (-2, -1, -4)


def test_sums_are_no_view_of_a_gradient_that_is_used_again():
    p = nn.Parameter(torch.zeros(()))
    optimizer = NestedOptimizer([{"params": [p], "period": 2}], torch.optim.SGD, lr=1.0)
    p.grad = torch.tensor(1.0)
    optimizer.step()
    p.grad.fill_(10.0)
    optimizer.step()
    assert p.item() == -11 and p.grad == 10


def test_gradients_are_put_back_when_the_base_raises():
    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("no")

    p = nn.Parameter(torch.zeros(()))
    optimizer = NestedOptimizer([{"params": [p], "period": 2}], Broken, lr=1.0)
    p.grad = torch.tensor(3.0)
    with pytest.raises(RuntimeError, match="no"):
        optimizer.step()
    assert p.grad == 3


def test_groups_of_one_name_are_told_apart_and_parts_without_weights_are_no_groups():
    params = [nn.Parameter(torch.zeros(())) for _ in range(2)]
    optimizer = NestedOptimizer([{"params": [p], "name": "same"} for p in params], lr=0.1)
    assert optimizer.moves() == {"same": 0, "same (1)": 0}
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    assert [g["name"] for g in periods_by_depth(tied, (2, 1))] == ["depth 0"]


def test_the_state_of_another_optimizer_is_refused_before_anything_changes():
    p = nn.Parameter(torch.zeros(2))
    optimizer = NestedOptimizer([p], lr=0.1)
    with pytest.raises(ValueError, match="another optimizer than NestedOptimizer: it has no base"):
        optimizer.load_state_dict(torch.optim.AdamW([p]).state_dict())
    other = NestedOptimizer([p], torch.optim.SGD, lr=0.3)
    with pytest.raises(ValueError, match="it has no amsgrad, betas"):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_bases_with_a_period_and_periods_of_other_kinds_are_refused():
    p = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="base cannot be M3, which has a setting period already"):
        NestedOptimizer([p], M3, lr=0.1)
    with pytest.raises(ValueError, match="but got 'an instance of SGD'"):
        NestedOptimizer([p], torch.optim.SGD([p], 0.1))
    with pytest.raises(TypeError, match="set"):
        NestedOptimizer([{"params": {p}}], lr=0.1)
    for wrong in (3, "12", {1: 2}):
        with pytest.raises(ValueError, match="periods is a tuple of steps"):
            periods_by_depth(make_net(), wrong)
    with pytest.raises(ValueError, match="period is a whole number from 1, but got 0"):
        periods_by_depth(make_net(), (0,))
    for wrong in ([1], None, {0: 3}):
        with pytest.raises(ValueError, match="periods is a dict from names to steps"):
            periods_by_name(make_net(), wrong)
