"""A learned rule in a stranger's loop: as the unroll moves, and as torch.optim behaves."""

import copy

import pytest
import torch
from torch import nn

from nested import MetaOptimizer, functional_loss, unroll
from nested.conformance import check_optimizer
from nested.rules import CoordinatewiseRule, LearnedOptimizer, PerTensorRule
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
    "PerTensorRule": PerTensorRule,
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
