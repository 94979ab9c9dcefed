"""Small inner problems and rules that the tests share. Letters: B batch, K inner steps, T tasks."""

import torch
from torch import Generator, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from nested import (
    MetaOptimizer,
    Step,
    UpdateRule,
    functional_loss,
    momentum_step,
    slow_weights_step,
)
from nested.unroll.over_tasks import stack_tasks
from nested.unroll.registry import BACKENDS


def available(*backends):
    """Those of the ``backends`` that are there: ``nested/fast`` may be deleted."""
    return [name for name in backends if name in BACKENDS]


def generator(seed=0):
    return Generator().manual_seed(seed)


def small_net():
    """A net without kinks, so that finite differences can be trusted."""
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def frozen_first_layer():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[0].requires_grad_(False)
    return model


def with_buffers():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()
    model[1].running_var.fill_(2.5)
    return model


def problem(steps, *, model=None, seed=0, requires_grad=True):
    """(loss_fn, params, batches, initial momentum) in float64, on random data."""
    g = generator(seed)
    model = model or small_net()
    params = {
        name: torch.randn(p.shape, generator=g, dtype=torch.float64).requires_grad_(requires_grad)
        for name, p in model.named_parameters()
    }
    momentum = {
        name: 0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64)
        for name, p in params.items()
    }
    momentum = {name: v.requires_grad_(requires_grad) for name, v in momentum.items()}
    batches = [
        (
            torch.randn(5, 3, generator=g, dtype=torch.float64),
            torch.randn(5, 2, generator=g, dtype=torch.float64),
        )
        for _ in range(steps)
    ]
    return functional_loss(model, nn.functional.mse_loss), params, batches, momentum


def learned_rule(seed=0):
    """A MetaOptimizer in float64 whose net is far from constant."""
    rule = MetaOptimizer(hidden=5, generator=generator(seed)).double()
    with torch.no_grad():
        rule.net[2].weight.mul_(8)
    return rule


def state_with(rule, params, momentum):
    """The rule's first state, but with ``momentum`` in it."""
    return {**rule.init(params), "momentum": momentum}


class ConstantRule(UpdateRule):
    """Momentum SGD with two numbers, as plain as can be."""

    def __init__(self, lr, momentum):
        super().__init__()
        self.lr = nn.Parameter(torch.tensor(lr, dtype=torch.float64))
        self.mu = nn.Parameter(torch.tensor(momentum, dtype=torch.float64))

    def init(self, params):
        return {"momentum": {name: torch.zeros_like(p) for name, p in params.items()}}

    def forward(self, params, grads, state, loss):
        buffer = momentum_step(state["momentum"], grads, self.mu)
        signals = {"lr": self.lr + 0, "momentum": self.mu + 0}
        return Step(slow_weights_step(params, buffer, self.lr), {"momentum": buffer}, signals)


class WithWeights(UpdateRule):
    """A rule run with other weights than its own, to differentiate with respect to them."""

    def __init__(self, rule, weights):
        super().__init__()
        self.rule, self.borrowed = rule, weights

    def init(self, params):
        return self.rule.init(params)

    def forward(self, *arguments):
        return functional_call(self.rule, self.borrowed, arguments)


def everything(trajectory):
    """All numbers of a trajectory in one vector."""
    return torch.cat([leaf.reshape(-1).double() for leaf in tree_leaves(tuple(trajectory))])


def repeat_tasks(tree, count=2):
    """``count`` equal tasks, stacked."""
    return stack_tasks([tree] * count)


def copies(tree):
    return tree_map(lambda leaf: leaf.detach().clone(), tree)
