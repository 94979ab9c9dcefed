"""Delta momentum against eq. 48-49, written out."""

import pytest
import torch
from torch import Generator, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nested.optim import DeltaMomentum

SHAPES = [(3, 7), (7, 3), (4, 4), (5,), (), (4, 2, 3, 3)]


def draw(shape, seed):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def run(optimizer, p, grads):
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("unit_key", [False, True])
def test_it_is_equations_48_and_49(shape, unit_key):
    p = nn.Parameter(draw(shape, 0))
    grads = [0.4 * draw(shape, k) for k in range(1, 21)]
    rows = shape[0] if len(shape) > 1 else 1
    w, m, a, lr = p.detach().clone().reshape(rows, -1), 0, 0.8, 0.3
    m = torch.zeros_like(w)
    for grad in grads:
        g = grad.reshape(rows, -1)
        key = g / torch.linalg.matrix_norm(g) if unit_key else g
        eye = torch.eye(g.shape[1], dtype=torch.float64)
        m = m @ (a * eye - key.T @ key) - lr * g
        w = w + m
    found = run(DeltaMomentum([p], lr, a, unit_key=unit_key), p, grads)
    assert torch.allclose(found, w.reshape(shape), rtol=1e-10, atol=1e-12)


def test_it_differs_from_plain_momentum_by_what_the_key_forgets():
    p, q = nn.Parameter(draw((3, 5), 0)), nn.Parameter(draw((3, 5), 0))
    g = 0.5 * draw((3, 5), 1)
    run(DeltaMomentum([p], 0.1, 0.9), p, [g, g])
    run(torch.optim.SGD([q], 0.1, 0.9), q, [g, g])
    # after two steps: m_1 = -n g, and -m_1 g^T g = n g g^T g is what was forgotten
    assert torch.allclose(p - q, 0.1 * g @ g.T @ g, rtol=1e-10)
    assert (p - q).abs().max() > 0.01


@pytest.mark.parametrize("share, grows", [(0.98, False), (1.02, True)])
def test_as_printed_it_is_stable_up_to_a_singular_value_of_the_root_of_1_plus_a(share, grows):
    a = 0.9
    p, g = nn.Parameter(torch.zeros(4, 4).double()), draw((4, 4), 1)
    g *= share * (1 + a) ** 0.5 / torch.linalg.matrix_norm(g, 2)
    optimizer = DeltaMomentum([p], 0.1, a)
    run(optimizer, p, [g] * 200)
    middle = optimizer.state[p]["momentum"].norm().item()
    run(optimizer, p, [g] * 200)
    assert (optimizer.state[p]["momentum"].norm() > 2 * middle) == grows


@pytest.mark.parametrize("scale", [1e3, 1e25])
def test_a_unit_key_is_stable_for_any_gradient(scale):
    p, g = nn.Parameter(torch.zeros(4, 4)), scale * draw((4, 4), 1).float()
    optimizer = DeltaMomentum([p], 0.1, 0.9, unit_key=True)
    run(optimizer, p, [g] * 300)
    largest = optimizer.state[p]["momentum"].abs().max()
    assert largest < 2 * g.abs().max()  # n / (1 - a) times g at most


class Largest(TorchDispatchMode):
    """The most numbers in a tensor that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.numbers = max([self.numbers, *made])
        return out


@pytest.mark.parametrize("shape", [(2, 500), (500, 2), (500,)])
def test_no_matrix_is_made_that_is_larger_than_the_weight(shape):
    p = nn.Parameter(torch.randn(shape))
    with Largest() as largest:
        run(DeltaMomentum([p], 0.1), p, [torch.randn(shape)])
    assert largest.numbers <= p.numel()
