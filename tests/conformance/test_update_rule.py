"""check_update_rule passes what is right, and names what is wrong."""

import pytest
import torch

from nested import MetaOptimizer, Step, UpdateRule, momentum_step, slow_weights_step
from nested.conformance import UPDATE_RULE_CHECKS, ConformanceError, check_update_rule
from nested.conformance.check import run_check
from tests.problems import ConstantRule

FAST = [check for check in UPDATE_RULE_CHECKS if "meta-trained" not in check.name]


class Adaptive(ConstantRule):
    """A right answer of another kind: RMSprop with two numbers. It treats coordinates alike, keeps
    sums of squares that must not be wiggled below zero, and hands keys back in another order."""

    coordinatewise = True

    def __init__(self):
        super().__init__(0.05, 0.5)

    def init(self, params):
        squares = {name: torch.zeros_like(p) for name, p in params.items()}
        return {"square": squares, "seen": torch.zeros(())}

    def forward(self, params, grads, state, loss):
        past, moved, square = state["square"], {}, {}
        for name, grad in grads.items():
            g = grad.clamp(-1e9, 1e9)
            square[name] = (self.mu * past[name] + (1 - self.mu) * g**2).to(g.dtype)
            moved[name] = (params[name] - self.lr * g / (square[name] + 1e-8).sqrt()).to(g.dtype)
        return Step(moved, {"seen": state["seen"], "square": square}, {"lr": self.lr + 0})


@pytest.mark.parametrize("rule", [MetaOptimizer(), Adaptive()], ids=lambda r: type(r).__name__)
def test_right_rules_pass_every_check(rule):
    before = [p.clone() for p in rule.parameters()]
    results = check_update_rule(rule)
    assert len(results) == len(UPDATE_RULE_CHECKS) and all(r.verdict.passed for r in results)
    assert all(torch.equal(a, b) for a, b in zip(before, rule.parameters(), strict=True))


def test_a_frozen_parameter_and_a_head_that_starts_at_zero_are_no_faults():
    rule = MetaOptimizer()
    rule.net[0].bias.requires_grad_(False)
    with torch.no_grad():
        rule.net[2].weight.zero_()
    names = ["every meta-parameter and the state are reached", "the hypergradient is right"]
    for check in UPDATE_RULE_CHECKS:
        if check.name in names:
            assert run_check(check, rule).verdict.passed, check.name


class Base(ConstantRule):
    """What the mutants below break, one line each."""

    def __init__(self):
        super().__init__(0.05, 0.5)

    def move(self, params, buffer, lr):
        return slow_weights_step(params, buffer, lr)

    def forward(self, params, grads, state, loss):
        buffer = momentum_step(state["momentum"], grads, self.mu)
        moved = self.move(params, buffer, self.lr)
        return Step(moved, {"momentum": buffer}, {"lr": self.lr + 0})


class DetachedState(Base):
    def forward(self, params, grads, state, loss):
        step = super().forward(params, grads, state, loss)
        return step._replace(
            state={"momentum": {n: v.detach() for n, v in step.state["momentum"].items()}}
        )


class FloatRate(Base):
    def move(self, params, buffer, lr):
        return slow_weights_step(params, buffer, lr.item())


class InPlace(Base):
    def forward(self, params, grads, state, loss):
        for name, v in state["momentum"].items():
            v.mul_(0.5).add_(grads[name])
        return super().forward(params, grads, state, loss)


class OldWeights(Base):
    def move(self, params, buffer, lr):
        return {name: p + 0 * lr for name, p in params.items()}


class Hidden(Base):
    calls = 0

    def move(self, params, buffer, lr):
        self.calls += 1
        return slow_weights_step(params, buffer, lr / self.calls)


class Noisy(Base):
    def move(self, params, buffer, lr):
        noise = {name: torch.randn_like(v) for name, v in buffer.items()}
        return slow_weights_step(params, noise, lr)


class ByName(Base):
    def move(self, params, buffer, lr):
        return {n: p - lr * buffer[n] * (2.0 if "m" in n[:1] else 1.0) for n, p in params.items()}


class GrowingState(Base):
    def forward(self, params, grads, state, loss):
        step = super().forward(params, grads, state, loss)
        return step._replace(state={**step.state, "all": [*state.get("all", []), grads]})


class Divides(Base):
    def move(self, params, buffer, lr):
        return {n: p - lr * buffer[n] / buffer[n].norm() for n, p in params.items()}


class SpreadsNaN(Base):
    def move(self, params, buffer, lr):
        return {n: p - self.spread * buffer[n] for n, p in params.items()}

    def forward(self, params, grads, state, loss):
        self.spread = self.lr * loss.clamp(-1, 1)
        return super().forward(params, grads, state, loss)


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (DetachedState, "the hypergradient is right"),
        (FloatRate, "the hypergradient is right"),
        (InPlace, "changes nothing passed in"),
        (OldWeights, "every meta-parameter and the state are reached"),
        (Hidden, "the same every time"),
        (Noisy, "the same every time"),
        (ByName, "blind to names and order"),
        (GrowingState, "keeps names, shapes and dtypes"),
        (Divides, "finite at zero, tiny and huge gradients"),
        (SpreadsNaN, "a NaN loss is refused or survived"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_each_mutant_is_caught_by_the_check_that_names_its_fault(mutant, check):
    (chosen,) = [c for c in UPDATE_RULE_CHECKS if c.name == check]
    verdict = run_check(chosen, mutant()).verdict
    assert not verdict.passed and verdict.measured and verdict.hint


def test_the_mutants_base_is_right():
    assert all(
        run_check(check, Base()).verdict.passed for check in FAST if "huge" not in check.name
    )


def test_a_failure_is_one_error_with_a_line_a_check():
    with pytest.raises(ConformanceError, match="FloatRate breaks its contract:\n  the hypergrad"):
        check_update_rule(FloatRate())


def test_a_rule_that_raises_fails_with_its_own_words():
    class Unfinished(UpdateRule):
        pass

    verdict = run_check(FAST[0], Unfinished()).verdict
    assert not verdict.passed and "NotImplementedError" in verdict.measured
