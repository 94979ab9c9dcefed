"""Slot hw4: a rate for each layer that transfers to a deeper net.

Letters: P tensors of weights, in the order of the net.
"""

from __future__ import annotations

import copy
from types import ModuleType

import torch
from torch import Tensor, nn

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.update_rule import UPDATE_RULE_CHECKS
from nested.homework.borrowed import borrowed
from nested.homework.remote import RemoteRule, call
from nested.homework.serve import Served, serve_rule
from nested.homework.slots.gain import judge_gain, learn_and_race
from nested.homework.slots.moves import DEEP, NETS, judge_moves, probe_moves
from nested.homework.slots.slot import Slot, without
from nested.levels.forward import Params, State
from nested.levels.momentum import momentum_step
from nested.levels.rule import Step, UpdateRule
from nested.levels.slow_weights import slow_weights_step
from nested.meta.config import MetaConfig
from nested.tasks.digits import Digits

TRAINING = MetaConfig(meta_steps=50, unroll_length=10, max_horizon=30, tasks=8)
SHALLOW = 2  # hidden layers in training; the deeper nets have DEEP
HORIZON = 30


class OneRate(UpdateRule):
    """The rule to beat: one learned learning rate and momentum for all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.log_lr = nn.Parameter(torch.tensor(0.1).log())
        self.logit_momentum = nn.Parameter(torch.zeros(()))

    def init(self, params: Params) -> State:
        return {name: torch.zeros_like(p) for name, p in params.items()}

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        buffer = momentum_step(state, grads, self.logit_momentum.sigmoid())
        lr = self.log_lr.exp()
        return Step(slow_weights_step(params, buffer, lr), buffer, {"lr": lr + 0})


def _serve(module: ModuleType) -> Served:
    rule = module.DepthRule()

    def step(params: Params, grads: Params) -> None:
        loss = torch.ones((), dtype=next(iter(params.values())).dtype)
        learner = copy.deepcopy(rule).double()
        learner(params, grads, learner.init(params), loss)

    def run(params: Params, grads: Params) -> Params:
        called = borrowed(lambda: step(params, grads), ["rules", "levels"], ["forward"])
        return {name: torch.ones(()) for name in called}  # all answers are tensors

    return {**serve_rule(rule), "borrowed": run}


class RemoteDepthRule(RemoteRule):
    """A proxy of a student's rule that can also list the built-in rules it calls."""

    def borrowed(self, params: Params, grads: Params) -> list[str]:
        """List the built-in rules that run in a step on ``params`` and ``grads`` {name: (...)}.

        Exceptions of the student's code pass through."""
        return sorted(call(self._sandbox, "borrowed", params, grads))


def _probe_borrowed(rule: RemoteDepthRule, seed: int) -> Evidence:
    nets = {net: (draw(seed), draw(seed + 1)) for net, draw in NETS.items()}
    return {net: rule.borrowed(*drawn) for net, drawn in nets.items()}


def _judge_borrowed(evidence: Evidence) -> Verdict:
    for net, names in evidence.items():
        if names:
            measured = f"on {net} its step calls the built-in {', '.join(names)}"
            return Verdict(False, measured, "write the function from tensors to rates yourself")
    return Verdict(True, "no built-in rule runs in its steps")


def _judge_own_rates(evidence: Evidence) -> Verdict:
    ranges = []
    for net, results in evidence.items():
        lr, count = results["signals"][0]["lr"], len(results["moves"][0])
        if lr.shape != (count,):
            measured = f"signals['lr'] has shape {tuple(lr.shape)} for {count} tensors"
            return Verdict(
                False,
                measured,
                f"return one rate for each tensor, in the order of params: ({count},)",
            )
        ranges.append(f"on {net} rates go from {lr.min():.3g} to {lr.max():.3g}")
        if not (lr.min() > 0 and lr.max() / lr.min() - 1 > 1e-6):
            hint = "all layers get the same rate: which feature distinguishes them?"
            return Verdict(False, ranges[-1], hint)
    return Verdict(True, ", ".join(ranges))


def _probe_transfer(rule: UpdateRule, seed: int) -> Evidence:
    """Race both rules on deeper nets than those of their meta-training: mean losses (T,)."""
    shallow, deep = (Digits(contrast=(1.0, 1.0), depth=depth) for depth in (SHALLOW, DEEP))
    rules = {"one rate": OneRate(), "a rate a layer": copy.deepcopy(rule).float()}
    return learn_and_race(rules, shallow, deep, TRAINING, HORIZON, seed, "one rate")


SLOT = Slot(
    name="hw4",
    file="hw4_depth_rule.py",
    title="A rate for each layer",
    serve=_serve,
    subject=RemoteDepthRule,
    checks=[
        *without("blind to permuted coordinates", UPDATE_RULE_CHECKS),
        Check("each layer has a rate of its own", probe_moves, _judge_own_rates),
        Check("it moves by its rates", probe_moves, judge_moves),
        Check("it is not a built-in rule", _probe_borrowed, _judge_borrowed),
        Check(
            "it transfers to a deeper net",
            _probe_transfer,
            judge_gain(
                "one rate",
                "a rate a layer",
                "a rate for layer 3 does not transfer to deeper nets: use each layer's gradients",
            ),
        ),
    ],
)
