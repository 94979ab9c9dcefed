"""The pretrained rule keeps its numbers: three steps against values saved by an earlier version."""

import math

import pytest
import torch

from nested.rules import load_rule

SHAPES = {"matrix": (4, 3), "vector": (5,), "kernel": (2, 3, 2)}
LRS = [  # for each step: lr of the matrix, the vector and the kernel
    (0.04409599, 0.031892129, 0.045321415),
    (0.029586239, 0.01753876, 0.02883586),
    (0.022335453, 0.012705224, 0.021638324),
]
AFTER = {
    "matrix": (
        *(-0.032678294, 0.292502546, -0.253373916, 0.316641653, 0.309589895, 0.066794042),
        *(-0.268182638, 0.220116928, -0.124489509, -0.165135321, -0.245001285, -0.066254937),
    ),
    "vector": (0.234928451, 0.100581777, -0.261794178, 0.232153589, 0.095709879),
    "kernel": (
        *(0.310518472, -0.13214571, -0.002348065, 0.000472443, -0.13225621, -0.264580895),
        *(0.078385669, 0.175042028, -0.269467311, -0.220365477, 0.040830581, 0.322582806),
    ),
}


def numbers(shape, seed):
    """Float64 numbers that no generator draws, so that every version of PyTorch has the same."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * k + 0.9 * seed + 0.3 * (k * k % 11)).view(shape)


@pytest.mark.parametrize("in_place", [False, True])
def test_the_pretrained_rule_makes_the_steps_that_it_made(in_place):
    rule = load_rule("default").double().for_horizon(20)
    params = {n: 0.3 * numbers(shape, i) for i, (n, shape) in enumerate(SHAPES.items())}
    state = rule.init(params)
    for k, lrs in enumerate(LRS):
        grads = {
            n: (1 + k) * numbers(shape, 10 * k + i + 1)
            for i, (n, shape) in enumerate(SHAPES.items())
        }
        if in_place:
            rule.move_in_place(params, grads, state)
            continue
        with torch.no_grad():
            params, state, signals = rule(params, grads, state, torch.zeros(()).double())
        assert torch.allclose(signals["lr"], torch.tensor(lrs).double(), rtol=0, atol=1e-6)
    for name, wanted in AFTER.items():
        assert torch.allclose(
            params[name].flatten(), torch.tensor(wanted).double(), rtol=0, atol=1e-6
        )
