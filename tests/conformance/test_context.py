"""check_context passes every built-in feature, and names what is wrong with others."""

import pytest
import torch

from nested.conformance import CONTEXT_CHECKS, ConformanceError, check_context
from nested.conformance.check import run_check
from nested.levels.context import FEATURES

COUNT = []


@pytest.mark.parametrize("name", FEATURES)
def test_every_built_in_feature_keeps_the_contract(name):
    results = check_context(FEATURES[name].compute)
    assert len(results) == len(CONTEXT_CHECKS) and all(r.verdict.passed for r in results)


def size(grads):
    return torch.log(sum(g.square().sum() for g in grads.values()) + 1e-12) / 4


def vector(*, grads, **seen):
    return torch.stack([g.square().mean() for g in grads.values()])


def counting(*, grads, **seen):
    COUNT.append(0)
    return size(grads) + len(COUNT)


def writing(*, grads, **seen):
    for g in grads.values():
        g.mul_(2)
    return grads["matrix"].sum()


def overflowing(*, grads, **seen):
    return size(grads)  # squares of 1e30


def first(*, grads, **seen):
    return torch.tanh(next(iter(grads.values())).sum())


def as_float(*, loss, **seen):
    return torch.tensor(float(loss))


def constant(*, loss, **seen):
    return 0 * loss.nan_to_num()


def huge(*, step, **seen):
    return 1000 * step


MUTANTS = {
    "a scalar, in any dtype": [vector],
    "the same every time, and pure": [counting, writing],
    "finite at any input": [overflowing],
    "blind to names and order": [first],
    "tasks in a batch do not mix": [as_float],
    "it moves, and is of order one": [constant, huge],
}


@pytest.mark.parametrize("check", CONTEXT_CHECKS, ids=lambda check: check.name)
def test_each_check_catches_the_faults_it_is_named_for(check):
    for feature in MUTANTS[check.name]:
        verdict = run_check(check, feature).verdict
        assert not verdict.passed and verdict.hint, (feature, verdict)


def test_a_failure_names_the_feature():
    with pytest.raises(ConformanceError, match="constant breaks its contract"):
        check_context(constant)
