"""What level 4 sees: right where it can be computed by hand, finite everywhere."""

import math
from types import SimpleNamespace

import numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from nested.levels import FEATURES, context_vector


def observe(**inputs):
    values = context_vector(tuple(FEATURES), params=inputs["grads"], **inputs)
    return SimpleNamespace(**dict(zip(FEATURES, values, strict=True)))


def see(grad, past, loss=2.0, step=3.0, dtype=torch.float64):
    return observe(
        loss=torch.tensor(loss, dtype=dtype),
        step=torch.tensor(step, dtype=dtype),
        grads={"w": torch.tensor(grad, dtype=dtype)},
        buffer={"w": torch.tensor(past, dtype=dtype)},
    )


def test_the_features_are_what_their_names_say():
    grad, past = numpy.array([3.0, 4.0, 0.0]), numpy.array([1.0, 1.0, 1.0])
    seen = see(grad.tolist(), past.tolist())
    assert math.isclose(seen.log_loss, math.log(2))
    assert math.isclose(seen.log_step, math.log(4))
    assert math.isclose(seen.log_grad_norm, math.log(5))
    assert math.isclose(seen.grad_cosine, grad @ past / (5 * math.sqrt(3)))


def test_the_length_is_over_all_parameters():
    grads = {"a": torch.full((2, 2), 2.0), "b": torch.tensor(3.0)}
    buffer = {name: -g for name, g in grads.items()}
    zero = torch.tensor(0.0)
    seen = observe(loss=zero, step=zero, grads=grads, buffer=buffer)
    torch.testing.assert_close(seen.log_grad_norm, torch.tensor(5.0).log())
    torch.testing.assert_close(seen.grad_cosine, torch.tensor(-1.0))


anything = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(anything, min_size=3, max_size=3), anything)
def test_they_are_finite_for_any_input(values, loss):
    seen = see(values, values[::-1], loss=loss, dtype=torch.float32)
    for name, feature in vars(seen).items():
        assert torch.isfinite(feature), name
    assert -1.001 <= seen.grad_cosine <= 1.001


def test_an_empty_momentum_has_cosine_zero_and_a_finite_gradient():
    past = torch.zeros(3, requires_grad=True)
    zero, grads = torch.tensor(0.0), {"w": torch.ones(3)}
    seen = observe(loss=zero, step=zero, grads=grads, buffer={"w": past})
    (gradient,) = torch.autograd.grad(seen.grad_cosine, past)
    assert seen.grad_cosine == 0 and torch.isfinite(gradient).all()


def test_half_precision_is_widened():
    seen = see([1.0, 2.0], [1.0, 2.0], dtype=torch.bfloat16)
    assert all(feature.dtype == torch.float32 for feature in vars(seen).values())
