"""Slot hw4: a rate for each layer, that transfers to a deeper net.

Letters: P tensors of weights, in the order of the net.
"""

from __future__ import annotations

import copy
from types import ModuleType

import torch
from torch import Tensor, nn

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.update_rule import UPDATE_RULE_CHECKS
from nested.homework.remote import RemoteRule
from nested.homework.serve import Served, serve_rule
from nested.homework.slots.gain import judge_gain, learn_and_race
from nested.homework.slots.moves import judge_moves, probe_moves
from nested.homework.slots.slot import Slot, without
from nested.levels.forward import Params, State
from nested.levels.momentum import momentum_step
from nested.levels.rule import Step, UpdateRule
from nested.levels.slow_weights import slow_weights_step
from nested.meta.config import MetaConfig
from nested.tasks.digits import Digits

TRAINING = MetaConfig(meta_steps=50, unroll_length=10, max_horizon=30, tasks=8)
SHALLOW, DEEP = 2, 4  # hidden layers: of the nets trained on, and of those to transfer to
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
    return serve_rule(module.DepthRule())


def _judge_own_rates(evidence: Evidence) -> Verdict:
    lr, count = evidence["signals"][0]["lr"], len(evidence["moves"][0])
    if lr.shape != (count,):
        measured = f"signals['lr'] has shape {tuple(lr.shape)} for {count} tensors"
        return Verdict(False, measured, f"one rate a tensor, in the order of params: ({count},)")
    spread = (lr.max() / lr.min()).item() - 1
    measured = f"rates from {lr.min():.3g} to {lr.max():.3g}"
    return Verdict(
        lr.min() > 0 and spread > 1e-6, measured, "all layers get one rate: what tells them apart?"
    )


def _probe_transfer(rule: UpdateRule, seed: int) -> Evidence:
    """The mean losses (T,) of both rules on deeper nets than both were meta-trained on."""
    shallow, deep = (Digits(contrast=(1.0, 1.0), depth=depth) for depth in (SHALLOW, DEEP))
    rules = {"one rate": OneRate(), "a rate a layer": copy.deepcopy(rule).float()}
    return learn_and_race(rules, shallow, deep, TRAINING, HORIZON, seed, "one rate")


SLOT = Slot(
    name="hw4",
    file="hw4_depth_rule.py",
    title="A rate for each layer",
    serve=_serve,
    subject=RemoteRule,
    checks=[
        *without("blind to permuted coordinates", UPDATE_RULE_CHECKS),
        Check("each layer has a rate of its own", probe_moves, _judge_own_rates),
        Check("it moves by its rates", probe_moves, judge_moves),
        Check(
            "it transfers to a deeper net",
            _probe_transfer,
            judge_gain(
                "one rate",
                "a rate a layer",
                "a rate for layer 3 says nothing of nets with more: look at each layer's gradients",
            ),
        ),
    ],
)
