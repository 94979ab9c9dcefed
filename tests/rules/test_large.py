"""Large tensors move block by block, in place: the same numbers, in little memory."""

import copy

import pytest
import torch

from nested.rules import CoordinatewiseRule, load_rule
from nested.rules.coordinatewise import LARGE
from nested.rules.large import BLOCK, blocks_of
from tests.problems import generator

STEPS = 4
SHAPES = [
    (LARGE,),
    (LARGE + 77,),
    (200, 300),
    (300, 200),
    (2, 2 * BLOCK + 5),
    (2 * BLOCK + 5, 2),
    (1, LARGE),
    (LARGE, 1),
    (8, 16, 17, 17),
]


def moves(rule, shape, dtype, scale=1.0):
    """The moves of the definition and those in place, from the same weights and states."""
    g = generator(1)
    params = {"w": 0.1 * torch.randn(shape, generator=g).to(dtype)}
    state = rule.init(params)
    for k in range(STEPS):
        grads = {"w": (10.0**k * torch.randn(shape, generator=g)).to(dtype)}
        ours, kept = copy.deepcopy((params, state))
        rule.move_in_place(ours, grads, kept, scale)
        with torch.no_grad():
            moved, state, _ = rule(params, grads, state, torch.zeros(()))
        yield params["w"], moved["w"], ours["w"], state, kept
        params = moved


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype, within", [(torch.float64, 1e-12), (torch.float32, 4e-6)])
def test_a_large_tensor_moves_as_the_definition_says(shape, dtype, within):
    rule = load_rule().to(dtype).for_horizon(20)
    for before, theirs, ours, state, kept in moves(rule, shape, dtype):
        assert (ours - theirs).norm() <= within * (theirs - before).norm()
        for name in ("momenta", "square"):
            difference = (kept[name]["w"] - state[name]["w"]).norm()
            assert difference <= 3e-7 * state[name]["w"].norm()
        assert kept["step"] == state["step"]


def test_a_scale_multiplies_the_move():
    rule = CoordinatewiseRule(total_steps=20)
    for before, theirs, ours, _, _ in moves(rule, (200, 300), torch.float64, scale=0.25):
        assert torch.allclose(ours - before, 0.25 * (theirs - before), rtol=1e-9, atol=1e-15)


def test_half_precision_and_gradients_that_are_no_numbers():
    rule = CoordinatewiseRule(total_steps=20)
    for dtype in (torch.bfloat16, torch.float16):
        for _, theirs, ours, _, _ in moves(rule, (200, 300), dtype):
            assert torch.allclose(ours.float(), theirs.float(), rtol=0.02, atol=2e-3)
    params = {"w": torch.ones(LARGE)}
    state, grads = rule.init(params), {"w": torch.ones(LARGE)}
    grads["w"][::7], grads["w"][1::7] = torch.nan, torch.inf
    rule.move_in_place(params, grads, state)
    assert params["w"].isfinite().all() and state["square"]["w"].isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (3, 2 * BLOCK + 1), (BLOCK + 1, 3), (1, BLOCK)])
def test_blocks_cover_every_coordinate_once(shape):
    seen = torch.zeros(shape)
    for flat, rows, columns in blocks_of(*shape):
        seen[rows, columns] += 1
        numbers = torch.arange(seen.numel()).view(shape)[rows, columns].reshape(-1)
        assert torch.equal(numbers, torch.arange(flat.start, flat.stop))
        assert 0 < len(numbers) <= BLOCK
    assert (seen == 1).all()
