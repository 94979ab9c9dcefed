"""Every optimizer of ours, and those of torch, keep the conventions; wrong ones do not."""

import pytest
import torch
from torch import nn

from nested.conformance import OPTIMIZER_CHECKS, ConformanceError, check_optimizer
from nested.conformance.check import run_check
from nested.optim import DGD, M3, DeepMomentum, DeltaMomentum, NestedOptimizer

RIGHT = {
    "SGD": lambda params, net: torch.optim.SGD(params, 0.1, momentum=0.9),
    "AdamW": lambda params, net: torch.optim.AdamW(params, 0.01),
    "DGD": lambda params, net: DGD(params, 0.1, module=net),
    "DeltaMomentum": lambda params, net: DeltaMomentum(params, 0.02),
    "DeltaMomentum, unit key": lambda params, net: DeltaMomentum(params, 0.02, unit_key=True),
    "DeepMomentum": lambda params, net: DeepMomentum(params, 0.01),
    "DeepMomentum, by shape": lambda params, net: DeepMomentum(params, 0.01, shared="shape"),
    "DeepMomentum, identity": lambda params, net: DeepMomentum(params, 0.01, hidden=0),
    "M3": lambda params, net: M3(params, 0.02, period=4),
    "M3, Muon": lambda params, net: M3(params, 0.02, slow_weight=0, second_moment=False),
    "M3, bfloat16": lambda params, net: M3(params, 0.02, ns_dtype=torch.bfloat16),
    "M3, paper": lambda params, net: M3(params, 0.002, period=4, form="paper", eps=1e-3),
    "Nested": lambda params, net: NestedOptimizer(with_periods(params), lr=0.01),
    "Nested SGD": lambda params, net: NestedOptimizer(
        with_periods(params), torch.optim.SGD, "mean", lr=0.1, momentum=0.9
    ),
}


def with_periods(params):
    groups = list(params)
    groups = groups if isinstance(groups[0], dict) else [{"params": groups}]
    return [{**group, "period": 3 + 2 * i} for i, group in enumerate(groups)]


@pytest.mark.parametrize("name", RIGHT)
def test_it_keeps_the_conventions(name):
    check_optimizer(RIGHT[name])


class Plain(torch.optim.Optimizer):
    """Momentum, right; the mutants below break one thing each."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.calls = 0

    def add_param_group(self, group):
        if group.get("maximize"):
            raise ValueError("no")
        super().add_param_group(group)

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.calls += 1
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.move(p, group["lr"])
        return loss

    def move(self, p, lr):
        state = self.state[p]
        buffer = state.setdefault("buffer", torch.zeros_like(p))
        buffer.mul_(0.9).add_(p.grad)
        p.add_(buffer, alpha=-lr)


class Uphill(Plain):
    def move(self, p, lr):
        p.add_(p.grad, alpha=lr)


class NewTensors(Plain):
    def move(self, p, lr):
        p.data = p.data - lr * p.grad


class EatsGradients(Plain):
    def move(self, p, lr):
        p.grad.mul_(lr)
        p.sub_(p.grad)


class GlobalNoise(Plain):
    def move(self, p, lr):
        p.add_(p.grad + 0.01 * torch.randn_like(p), alpha=-lr)


class HiddenCounter(Plain):
    def move(self, p, lr):
        if self.calls % 4 == 0:
            p.add_(p.grad, alpha=-lr)


class OwnRate(Plain):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.rates = [group["lr"] for group in self.param_groups]

    def move(self, p, lr):
        super().move(p, next(r for r in self.rates if r))


class OwnDecay(Plain):
    def __init__(self, params, weight_decay=0.01):
        torch.optim.Optimizer.__init__(self, params, {"lr": 0.1, "weight_decay": weight_decay})
        self.weight_decay, self.calls = weight_decay, 0

    def move(self, p, lr):
        p.mul_(1 - lr * self.weight_decay)
        super().move(p, lr)


class LosesTheSecondGroup(Plain):
    def state_dict(self):
        saved = super().state_dict()
        first = self.param_groups[0]["params"]
        return {**saved, "state": {i: s for i, s in saved["state"].items() if i < len(first)}}


class SingleState(Plain):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["buffer"] = state["buffer"].bfloat16().to(state["buffer"])


class KeepsZeros(Plain):
    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none=False)


class FrozenRate(Plain):
    def move(self, p, lr):
        super().move(p, self.state[p].setdefault("lr", lr))


class DecaysAll(Plain):
    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(1 - 0.01 * group["lr"])
        return loss


class GoesOn(Plain):
    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for p in self.state:
                if p.grad is None:
                    p.sub_(0.01 * self.state[p]["buffer"])
        return loss


class OwnGroups(Plain):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.first = list(self.param_groups)

    def step(self, closure=None):
        self.param_groups, groups = self.first, self.param_groups
        loss = super().step(closure)
        self.param_groups = groups
        return loss


class SinglePrecision(Plain):
    def move(self, p, lr):
        p.data = (p.float() - lr * p.grad.float()).view_as(p)


class Views(Plain):
    def move(self, p, lr):
        p.view(-1).sub_(lr * p.grad.view(-1))


class CountsGaps(Plain):
    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none)
        self.is_fresh = set_to_none

    def move(self, p, lr):
        p.add_(p.grad, alpha=-lr if getattr(self, "is_fresh", True) else -lr / 2)


class ClosureUnderNoGrad(Plain):
    def step(self, closure=None):
        super().step(closure)


class IgnoresMaximize(Plain):
    def add_param_group(self, group):
        torch.optim.Optimizer.add_param_group(self, group)


WRONG = {
    Uphill: "it lowers a loss",
    NewTensors: "it moves weights in place",
    EatsGradients: "it moves weights in place",
    GlobalNoise: "the same every time",
    HiddenCounter: "a saved state continues the run bit for bit",
    LosesTheSecondGroup: "a saved state continues the run bit for bit",
    SingleState: "a saved state continues the run bit for bit",
    KeepsZeros: "zero_grad to None or to zeros",
    OwnRate: "groups keep their own rate",
    OwnDecay: "groups keep their own settings",
    DecaysAll: "a weight without a gradient stays",
    GoesOn: "a weight without a gradient stays",
    OwnGroups: "a group can be added later",
    SinglePrecision: "float64 and bfloat16",
    Views: "non-contiguous and empty weights",
    CountsGaps: "zero_grad to None or to zeros",
    FrozenRate: "a scheduler's rate reaches it",
    ClosureUnderNoGrad: "a closure is called and its loss returned",
    IgnoresMaximize: "maximize is refused or honoured",
}


def test_the_right_one_passes():
    check_optimizer(lambda params, net: Plain(params))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_one_fails_the_check_that_names_it(wrong):
    results = [run_check(check, lambda params, net: wrong(params)) for check in OPTIMIZER_CHECKS]
    failed = [name for name, verdict in results if not verdict.passed]
    assert WRONG[wrong] in failed


def test_every_check_has_a_wrong_one():
    assert {check.name for check in OPTIMIZER_CHECKS} == set(WRONG.values())


def test_what_failed_is_said_in_a_line_each():
    with pytest.raises(
        ConformanceError, match="Uphill breaks its contract:\n  it lowers a loss: 60"
    ):
        check_optimizer(lambda params, net: Uphill(params))


def test_a_module_is_there_for_optimizers_that_need_one():
    seen = []
    check_optimizer(lambda params, net: seen.append(net) or torch.optim.SGD(params, 0.1))
    assert all(isinstance(net, nn.Module) for net in seen)
