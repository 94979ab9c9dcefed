"""A learned rule in a stranger's loop: as the unroll moves, and as torch.optim behaves."""

import copy
import warnings

import pytest
import torch
from torch import nn

from nested import MetaOptimizer, Step, UpdateRule, functional_loss, unroll
from nested.conformance import check_optimizer
from nested.rules import (
    CoordinatewiseRule,
    LearnedOptimizer,
    load_rule,
    save_rule,
)
from tests.problems import generator

STEPS = 8


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def batches():
    g = generator()
    return [
        (torch.randn(6, 3, generator=g).double(), torch.randn(6, 2, generator=g).double())
        for _ in range(STEPS)
    ]


def train(net, optimizer, data):
    for inputs, targets in data:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(inputs), targets)
        loss.backward()
        optimizer.step(loss=loss)


RULES = {
    "CoordinatewiseRule": CoordinatewiseRule,
    "MetaOptimizer": MetaOptimizer,
}


@pytest.mark.parametrize("name", RULES)
def test_it_moves_as_the_unroll_does(name):
    rule, net = RULES[name](), make_net()
    start = {n: p.detach().clone() for n, p in net.named_parameters()}
    loss_fn = functional_loss(make_net(), nn.functional.mse_loss)
    run = unroll(loss_fn, start, batches(), rule.double(), differentiable=False)
    train(net, LearnedOptimizer(net.parameters(), rule, total_steps=STEPS), batches())
    for n, p in net.named_parameters():
        assert torch.allclose(p, run.params[n], rtol=1e-9, atol=1e-12), n


@pytest.mark.parametrize("total_steps", [None, 100])
def test_it_keeps_the_conventions_of_torch_optim(total_steps):
    rule = CoordinatewiseRule(progress=total_steps is not None)
    check_optimizer(lambda params, net: LearnedOptimizer(params, rule, total_steps=total_steps))


def test_lr_multiplies_the_step_and_schedulers_drive_it():
    moves = []
    for lr in (1.0, 0.25):
        net = make_net()
        before = [p.detach().clone() for p in net.parameters()]
        optimizer = LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=STEPS)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: lr)
        train(net, optimizer, batches()[:1])
        scheduler.step()
        moves.append([p.detach() - b for p, b in zip(net.parameters(), before)])
    for whole, part in zip(*moves):
        assert torch.allclose(part, 0.25 * whole, rtol=1e-6)


def test_it_leaves_no_graph_and_holds_at_most_three_times_adams_state():
    net = make_net()
    optimizer = LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=STEPS)
    train(net, optimizer, batches())
    adam = torch.optim.Adam(net.parameters())
    train(net, _WithoutLoss(adam), batches())

    def held(optimizer):
        kept = [x for s in optimizer.state.values() for x in s.values() if torch.is_tensor(x)]
        assert not any(x.requires_grad for x in kept)
        return sum(x.numel() for x in kept)

    assert held(optimizer) <= 3 * held(adam)
    assert all(p.is_leaf and p.requires_grad for p in net.parameters())


class _WithoutLoss:
    """Takes and ignores the loss."""

    def __init__(self, optimizer):
        self.zero_grad, self.step = optimizer.zero_grad, lambda loss: optimizer.step()


def test_clipped_and_accumulated_gradients_and_a_frozen_layer():
    net = make_net()
    net[0].requires_grad_(False)
    frozen = net[0].weight.clone()
    optimizer = LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=STEPS)
    data, losses = batches(), []
    for inputs, targets in data * 10:
        for half in (slice(0, 3), slice(3, 6)):
            loss = nn.functional.mse_loss(net(inputs[half]), targets[half]) / 2
            loss.backward()
            losses.append(loss.item())
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(net[0].weight, frozen)
    assert sum(losses[-16:]) < sum(losses[:16])


def test_a_copy_goes_on_alone_as_the_original_would():
    net = make_net()
    optimizer = LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=2 * STEPS)
    train(net, optimizer, batches())
    twin, twins = copy.deepcopy((net, optimizer))
    train(net, optimizer, batches())
    assert not torch.equal(net[0].weight, twin[0].weight)
    train(twin, twins, batches())
    assert torch.equal(net[0].weight, twin[0].weight)


def test_users_mistakes_are_answered_in_one_sentence():
    net, rule = make_net(), CoordinatewiseRule()
    with pytest.raises(ValueError, match="sees its progress: give total_steps"):
        LearnedOptimizer(net.parameters(), rule)
    with pytest.raises(ValueError, match="total_steps is a whole number from 1, but got -3"):
        LearnedOptimizer(net.parameters(), rule, total_steps=-3)
    with pytest.raises(TypeError, match="rule is an UpdateRule, such as .* but got str"):
        LearnedOptimizer(net.parameters(), "default")
    with pytest.raises(TypeError, match="from_pretrained needs params"):
        LearnedOptimizer.from_pretrained()
    optimizer = LearnedOptimizer(net.parameters(), rule, total_steps=5)
    with pytest.raises(RuntimeError, match="no weight has a gradient: call loss.backward"):
        optimizer.step()
    train(net, optimizer, batches()[:1])
    with pytest.raises(RuntimeError, match=r"had shape \(5, 3\) and has \(7, 3\): make a new"):
        net[0].weight.data = torch.zeros(7, 3).double()
        net[0].weight.grad = torch.ones(7, 3).double()
        optimizer.step()
    sees = LearnedOptimizer(make_net().parameters(), MetaOptimizer())
    with pytest.raises(ValueError, match=r"sees the loss: call step\(closure\), or step\(loss"):
        sees.step()


def test_what_gets_no_gradient_any_more_stays_where_it_is():
    trunk, used, unused = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)
    never = nn.Linear(8, 3)
    net = nn.ModuleList([trunk, used, unused, never])
    optimizer = LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=300)
    g, start = generator(0), never.weight.detach().clone()
    for step in range(300):
        optimizer.zero_grad(set_to_none=False)
        x, y = torch.randn(8, 4, generator=g), torch.randint(3, (8,), generator=g)
        hidden = trunk(x)
        heads = used(hidden) + (unused(hidden) if step < 100 else 0) + 0 * never(hidden)
        nn.functional.cross_entropy(heads, y).backward()
        if step == 150:
            kept = unused.weight.detach().clone()
        optimizer.step()
    assert torch.equal(never.weight, start)
    assert (unused.weight - kept).norm() < 0.02 * kept.norm()  # nothing, long after the last


def test_the_rule_goes_where_the_weights_are():
    net = nn.Linear(4, 3, device="meta")
    optimizer = LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=5)
    for p in net.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    on_cpu = LearnedOptimizer(nn.Linear(4, 3).parameters(), CoordinatewiseRule(), total_steps=5)
    optimizer.load_state_dict(on_cpu.state_dict())
    assert {p.device.type for p in optimizer.rule.parameters()} == {"meta"}


def test_the_state_of_something_else_is_refused_before_anything_changes():
    def made(rule=None, steps=10, sizes=(4, 3)):
        net = nn.Linear(*sizes)
        optimizer = LearnedOptimizer(
            net.parameters(), rule or CoordinatewiseRule(), total_steps=steps
        )
        net(torch.ones(2, sizes[0])).sum().backward()
        if not optimizer.rule.needs_loss:
            optimizer.step()
        return optimizer

    adam = torch.optim.Adam(nn.Linear(4, 3).parameters())
    for other, said in (
        (adam, "the state of another optimizer than LearnedOptimizer: it has no rule"),
        (made(MetaOptimizer(), None), "with rule MetaOptimizer, but here it is Coordinatewise"),
        (made(steps=777), "with total_steps 777, but here it is 10"),
        (made(sizes=(5, 3)), r"other weights: one was \(3, 5\), but here one is \(3, 4\)"),
    ):
        ours = made()
        before = copy.deepcopy(ours.state_dict())
        with pytest.raises(ValueError, match=said):
            ours.load_state_dict(other.state_dict())
        assert str(ours.state_dict()) == str(before)


def test_the_loss_is_one_number_of_any_shape():
    ends = []
    for shape in ((), (1,), (1, 1)):
        net = make_net()
        rule = MetaOptimizer().double()
        optimizer = LearnedOptimizer(net.parameters(), rule)
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(inputs), targets)
            loss.backward()
            optimizer.step(loss=loss.reshape(shape))
        ends.append(net[0].weight.detach())
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    with pytest.raises(ValueError, match=r"the loss is one number, but got shape \(2,\)"):
        optimizer.step(loss=torch.ones(2))


class Pairs(UpdateRule):
    """Steps of 0.1, and 0.2 from the second step of a weight on; its state is nested in tuples."""

    needs_loss = False

    def init(self, params):
        return {name: (p.new_zeros(()), p.new_zeros(())) for name, p in params.items()}

    def forward(self, params, grads, state, loss):
        moved = {n: p - 0.1 * (1 + state[n][1]) for n, p in params.items()}
        seen = {n: (state[n][0] + 1, torch.ones_like(state[n][1])) for n in params}
        return Step(moved, seen, {})


def test_states_of_any_nesting_belong_to_their_weights_when_gradients_come_and_go():
    first, second = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = LearnedOptimizer([first, second], Pairs())
    for step in range(5):
        first.grad = torch.ones(2) if step % 2 == 0 else None
        second.grad = torch.ones(2)
        optimizer.step()
    assert torch.allclose(first, torch.full((2,), -0.5))  # three steps
    assert torch.allclose(second, torch.full((2,), -0.9))  # five


def test_float16_weights_are_moved_at_gradients_beyond_its_squares():
    net = nn.Linear(4, 3).half()
    optimizer = LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=20)
    for _ in range(20):
        for p in net.parameters():
            p.grad = torch.full_like(p, 3e4)
        optimizer.step()
    assert all(p.isfinite().all() and p.dtype == torch.float16 for p in net.parameters())


def states_of(rule, total_steps=None):
    """A fresh optimizer of ``rule``, after one step."""
    net = make_net()
    optimizer = LearnedOptimizer(net.parameters(), rule, total_steps=total_steps)
    train(net, optimizer, batches()[:1])
    return optimizer


OTHER_RULES = {
    "width": lambda: CoordinatewiseRule(8),
    "range": lambda: CoordinatewiseRule(lr_range=(1e-4, 1.0)),
    "weights": lambda: CoordinatewiseRule(generator=generator(9)),
    "one weight": lambda: nudged(CoordinatewiseRule()),
}


def nudged(rule):
    with torch.no_grad():
        rule.mix.weight[0, 0] += 1e-6
    return rule


@pytest.mark.parametrize("name", OTHER_RULES)
def test_the_state_of_another_rule_is_refused(name):
    ours, other = states_of(CoordinatewiseRule(), 10), states_of(OTHER_RULES[name](), 10)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match="rule with other settings or weights.*: load the rule"):
        ours.load_state_dict(other.state_dict())
    assert str(ours.state_dict()) == str(before)


@pytest.mark.parametrize("name", [n for n in RULES if n != "CoordinatewiseRule"])
def test_rules_that_see_the_loss_have_fingerprints_too(name):
    ours, other = states_of(RULES[name](5)), states_of(RULES[name](5, momentum_range=(0.1, 0.9)))
    with pytest.raises(ValueError, match="rule with other settings or weights"):
        ours.load_state_dict(other.state_dict())
    ours.load_state_dict(states_of(RULES[name](5)).state_dict())


def test_a_fingerprint_is_that_of_the_numbers_wherever_they_are(tmp_path):
    rule = CoordinatewiseRule()
    save_rule(tmp_path / "rule.safetensors", rule)
    for same in (load_rule(tmp_path / "rule.safetensors"), copy.deepcopy(rule).double()):
        ours = states_of(CoordinatewiseRule(), 10)
        ours.load_state_dict(states_of(same, 10).state_dict())


def test_an_old_state_without_a_fingerprint_is_taken_with_a_warning():
    ours, saved = states_of(CoordinatewiseRule(), 10), states_of(CoordinatewiseRule(), 10)
    old = copy.deepcopy(saved.state_dict())
    for group in old["param_groups"]:
        for name in ("fingerprint", "guard"):
            del group[name]
    for state in old["state"].values():
        del state["kept weight"]
    with pytest.warns(UserWarning, match="older version.*without a fingerprint"):
        ours.load_state_dict(old)
    assert ours.param_groups[0]["fingerprint"] == saved.param_groups[0]["fingerprint"]
    for p in ours.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    ours.step()


def test_a_loss_may_come_first():
    ends = []
    for give in (
        lambda o, x: o.step(x),
        lambda o, x: o.step(loss=x),
        lambda o, x: o.step(x.item()),
    ):
        net = make_net()
        optimizer = LearnedOptimizer(net.parameters(), MetaOptimizer())
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(inputs), targets)
            loss.backward()
            assert give(optimizer, loss) is None
        ends.append(net[0].weight.detach())
    assert torch.equal(ends[0], ends[1]) and torch.allclose(ends[0], ends[2], rtol=1e-5)
    with pytest.raises(TypeError, match="step takes a closure or a loss, but got str"):
        optimizer.step("loss")


@pytest.mark.filterwarnings("ignore:the rule")
@pytest.mark.parametrize(
    "make",
    [
        lambda params: LearnedOptimizer.from_pretrained(params, 20),
        lambda params: LearnedOptimizer.from_pretrained(params, total_steps=20),
        lambda params: LearnedOptimizer.from_pretrained([{"params": list(params)}], 20),
        lambda params: LearnedOptimizer.from_pretrained("default", params, 20),
        lambda params: LearnedOptimizer.from_pretrained(params, "default", 20),
        lambda params: LearnedOptimizer.from_pretrained(params=params, total_steps=20),
        lambda params: LearnedOptimizer.from_pretrained(
            name="default", params=params, total_steps=20
        ),
    ],
)
def test_the_parameters_may_come_first(make):
    net = make_net()
    optimizer = make(net.parameters())
    assert optimizer.param_groups[0]["params"] == list(net.parameters())
    assert optimizer.defaults["total_steps"] == 20 and optimizer.defaults["lr"] == 1


def test_two_sets_of_parameters_are_refused():
    net = make_net()
    with pytest.raises(TypeError, match="name is that of a rule, or a file, but got list"):
        LearnedOptimizer.from_pretrained(list(net.parameters()), list(net.parameters()), 20)


def test_steps_beyond_the_total_are_said_once():
    net, data = make_net(), batches()
    optimizer = LearnedOptimizer(net.parameters(), CoordinatewiseRule(), total_steps=3)
    with pytest.warns(
        UserWarning, match="expected total_steps=3, and now more steps come"
    ) as warned:
        train(net, optimizer, data)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rule, steps in ((CoordinatewiseRule(), STEPS), (CoordinatewiseRule(progress=False), 3)):
            net = make_net()
            train(net, LearnedOptimizer(net.parameters(), rule, total_steps=steps), data)
