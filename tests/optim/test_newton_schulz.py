"""The gradient of ``newton_schulz``: finite and right, at the zero matrix and near it."""

import pytest
import torch
from torch import Generator

from nested.optim import energy, momentum_objective, newton_schulz, regression_objective

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(4, 4), (3, 8), (8, 3), (2, 3, 5), (1, 4), (1, 1)]


def draw(shape, seed=0):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def gradient(matrix, weight):
    """Of <weight, newton_schulz(matrix)>."""
    point = matrix.clone().requires_grad_()
    (newton_schulz(point) * weight).sum().backward()
    return point.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gradient_at_the_zero_matrix_is_zero(shape, dtype):
    zero, weight = torch.zeros(shape, dtype=dtype), draw(shape).to(dtype)
    assert torch.equal(newton_schulz(zero), zero)
    assert torch.equal(gradient(zero, weight), zero)


def test_a_zero_matrix_in_a_stack_leaves_the_gradient_of_the_others():
    stack, weight = draw((3, 4, 6)), draw((3, 4, 6), 1)
    stack[1] = 0
    found = gradient(stack, weight)
    assert not found[1].any()
    assert torch.allclose(found[0], gradient(stack[0], weight[0]), rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_near_zero_the_gradient_is_that_of_a_scale_free_function(shape):
    """f(s x) = f(x), so that f'(s x) = f'(x) / s."""
    matrix, weight = draw(shape), draw(shape, 1)
    usual = gradient(matrix, weight)
    for dtype, scales in {torch.float64: (1e-100, 1e-290), torch.float32: (1e-20, 1e-30)}.items():
        for scale in scales:
            found = gradient((scale * matrix).to(dtype), weight.to(dtype)).double() * scale
            within = 1e-9 if dtype == torch.float64 else 1e-3
            assert (found - usual).abs().max() <= within * max(usual.abs().max(), 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_that_no_number_of_the_dtype_holds_are_its_largest(shape, dtype):
    tiny = torch.finfo(dtype).tiny
    for scale in (1000 * tiny, tiny, tiny / 8):
        matrix = (draw(shape).sign() * scale).to(dtype)
        assert newton_schulz(matrix).isfinite().all()
        assert gradient(matrix, draw(shape, 1).to(dtype)).isfinite().all()


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 3), (2, 2, 4)], ids=str)
def test_first_and_second_derivatives_are_right(shape):
    point = draw(shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: newton_schulz(x, 2), point, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: newton_schulz(x, 2), point)
    one = torch.zeros(shape).double()
    one[..., 0, 1] = 0.3  # one entry alone: the norm of the scaled matrix is exactly 1
    assert torch.autograd.gradcheck(lambda x: newton_schulz(x, 2), one.requires_grad_())


def test_it_works_under_the_transforms_of_torch_func():
    stack, weight = draw((3, 4, 6)), draw((4, 6), 1)
    found = torch.func.vmap(torch.func.grad(lambda x: (newton_schulz(x) * weight).sum()))(stack)
    assert torch.allclose(found, torch.stack([gradient(x, weight) for x in stack]), rtol=1e-8)


def test_the_objectives_of_the_room_have_finite_gradients_at_zero():
    zeros, point = torch.zeros(3, 4), torch.zeros(4, requires_grad=True)
    losses = (
        momentum_objective(point, zeros[0], zeros[1]),
        regression_objective(point, zeros, energy(zeros, 0.9), (0.9, 0.99)),
        energy(point[None], 0.9).sum(),
    )
    for loss in losses:
        (grad,) = torch.autograd.grad(loss, point)
        assert grad.isfinite().all()
