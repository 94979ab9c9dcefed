"""Half precision: weights are rounded, what is remembered is not."""

import copy

import pytest
import torch

from nested.memory import Gate
from nested.memory.net import unit
from tests.memory.memories import MEMORIES
from tests.problems import generator

HALVES = [torch.bfloat16, torch.float16]


def leaves(state):
    """Each floating-point tensor of a state."""
    parts = state.values() if isinstance(state, dict) else state
    if isinstance(state, torch.Tensor):
        return [state] if state.is_floating_point() else []
    return [leaf for part in parts for leaf in leaves(part)]


def half_and_float(name, dtype, dim=32, chunk=64, tokens=2048):
    """A memory in half precision, the same with its rounded weights in float32, and a text."""
    torch.manual_seed(0)
    memory = MEMORIES[name](dim, chunk).to(dtype)
    x = torch.randn(1, tokens, dim, generator=generator()).to(dtype)
    return memory, copy.deepcopy(memory).float(), x


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("name", MEMORIES)
def test_states_are_float32_at_least_and_outputs_of_the_input(name, dtype):
    memory, _, x = half_and_float(name, dtype, 8, 4, tokens=11)
    wide = torch.promote_types(dtype, torch.float32)
    first = memory.init(1)
    y, state = memory(x)
    later, state = memory(x, state)
    assert y.dtype == later.dtype == dtype
    assert {leaf.dtype for leaf in leaves(first) + leaves(state)} == {wide}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", MEMORIES)
def test_what_2048_tokens_wrote_is_kept(name, dtype):
    half, wide, x = half_and_float(name, dtype)
    with torch.no_grad():
        y, state = half(x)
        wanted, kept = wide(x.float())
    first = wide.init(1)
    wrote = [(b - a).float() for a, b in zip(leaves(first), leaves(state), strict=True)]
    target = [b - a for a, b in zip(leaves(first), leaves(kept), strict=True)]
    for ours, theirs in zip(wrote, target, strict=True):
        assert (ours - theirs).norm() <= 0.01 * theirs.norm()
    assert (y - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", MEMORIES)
def test_parts_are_the_whole_in_half_precision(name, dtype):
    memory, _, x = half_and_float(name, dtype, 8, 4, tokens=37)
    with torch.no_grad():
        y, state = memory(x)
        for sizes in ([1] * 37, [5, 13, 19]):
            parts, after = [], None
            for piece in x.split(sizes, dim=1):
                part, after = memory(piece, after)
                parts.append(part)
            assert torch.allclose(torch.cat(parts, dim=1), y, rtol=0.02, atol=0.02)
            for a, b in zip(leaves(after), leaves(state), strict=True):
                assert (a - b).norm() <= 0.01 * b.norm()


@pytest.mark.parametrize("dtype", HALVES)
def test_gates_and_unit_vectors_are_computed_in_float32(dtype):
    gate, raw = Gate(1e-6, 1e-4, 0.5).to(dtype), torch.randn(3, 5, generator=generator()).to(dtype)
    wanted = copy.deepcopy(gate).float()
    assert torch.allclose(gate(raw), wanted(raw.float())) and gate(raw).dtype == torch.float32
    assert torch.allclose(gate.log_rest(raw), wanted.log_rest(raw.float()))
    assert torch.allclose(unit(raw), unit(raw.float()))


@pytest.mark.parametrize("name", MEMORIES)
def test_what_2048_tokens_wrote_is_kept_under_autocast(name):
    memory, _, x = half_and_float(name, torch.float32)
    with torch.no_grad():
        first, (_, kept) = memory.init(1), memory(x)
        with torch.autocast("cpu", torch.bfloat16):
            y, state = memory(x)
    assert y.dtype == torch.float32
    for before, ours, theirs in zip(*map(leaves, (first, state, kept)), strict=True):
        assert ours.dtype == torch.float32
        # at rates near 1 each write erases, and rounds, what stood at its key
        writes = getattr(memory, "products", 1)
        assert (ours - theirs).norm() <= 0.03 * writes * (theirs - before).norm()
