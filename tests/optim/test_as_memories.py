"""Momentum and Adam as minimisers, found without their formulas."""

import pytest
import torch
from torch import Generator

from nested.optim import (
    energy,
    minimise,
    momentum_objective,
    read_as_memories,
    regression_objective,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(), (4,), (3, 2)])
def test_what_torch_keeps_is_the_minimiser(shape):
    found = read_as_memories(draw(12, *shape) + 0.3, momentum=0.8, betas=(0.9, 0.95))
    assert set(found) == {"momentum", "Adam"}
    assert max(found.values()) < 1e-7


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_scale_of_the_gradients_does_not_matter(scale):
    assert max(read_as_memories(scale * draw(12, 4)).values()) < 1e-7


def test_gradients_that_say_nothing_are_refused():
    for gradients, momentum in ((torch.zeros(3, 2), 0.9), (draw(3, 2), 0.0), (draw(3) / 0, 0.9)):
        with pytest.raises(ValueError, match="gradients are finite and not all zero"):
            read_as_memories(gradients, momentum)


def test_with_the_energy_as_target_the_same_objective_is_momentum():
    """Eq. 104: the target cancels the denominator."""
    gradients, beta = draw(10, 5), 0.9
    target = energy(gradients, beta)
    found = minimise(
        lambda m: regression_objective(m, gradients, target, (beta, beta)), torch.zeros(5).double()
    )
    buffer = torch.zeros(5).double()
    for g in gradients:
        buffer = beta * buffer + (1 - beta) * g
    assert torch.allclose(found, buffer / (1 - beta**10), rtol=1e-6)


def test_with_equal_betas_the_objective_is_the_printed_sum_of_squares():
    gradients, memory = draw(6, 4), draw(4, seed=1)
    weights = torch.tensor([0.5 ** (5 - i) for i in range(6)], dtype=torch.float64)
    weights /= weights.sum()
    target, ridge = energy(gradients, 0.5).sqrt(), 0.1
    printed = sum(w * (memory * g - target) ** 2 for w, g in zip(weights, gradients))
    constant = target**2  # the term without the memory
    printed = (printed - constant + ridge * memory**2).sum()
    ours = regression_objective(memory, gradients, target, (0.5, 0.5), ridge)
    assert torch.allclose(ours, printed)


@pytest.mark.parametrize("small", [0.1, 1e-2, 1e-3, 1e-6, 0.0])
def test_coordinates_may_differ_in_size(small):
    gradients = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).double()
    gradients[:, 0] *= small
    assert max(read_as_memories(gradients).values()) < 1e-6


def test_the_rate_scales_what_momentum_takes_in():
    before, grad = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double()
    found = minimise(lambda m: momentum_objective(m, before, grad, 0.9, 0.2), before)
    assert torch.allclose(found, 0.9 * before + 0.2 * grad, atol=1e-10)
