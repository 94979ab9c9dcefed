"""Memories and models with float32 weights need no float64: Apple's GPUs have none."""

import pytest
import torch

from nested.models.attention import rotate
from tests.memory.memories import MEMORIES
from tests.models.models import MODELS
from tests.no_float64 import NoFloat64
from tests.problems import generator


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MEMORIES)
def test_memories_forward_and_backward(name, dtype):
    check(MEMORIES[name](8, 4).to(dtype), torch.randn(2, 11, 8).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_models_forward_and_backward(name, dtype):
    check(MODELS[name](8, 4).to(dtype), torch.randint(11, (2, 11)))


def check(memory, x):
    with NoFloat64():
        _, state = memory(x)
        y, state = memory(x, state)
        y.float().square().sum().backward()
        with torch.no_grad():
            memory(x[:, :1], state)


def rotated_in_float64(x, past):
    """The angles, their cosines and all products in float64."""
    half = x.shape[-1] // 2
    speeds = 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(past, past + x.shape[2], dtype=torch.float64)[:, None] * speeds
    a, b = x.double().split(half, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


@pytest.mark.parametrize("past", [0, 1, 255, 4_095, 29_990, 1_000_000])
@pytest.mark.parametrize("size", [2, 8, 64])
def test_positions_are_exact(past, size):
    x = torch.randn(2, 3, 300, size, generator=generator())
    wanted, positions = rotated_in_float64(x, past), torch.arange(past, past + 300)
    assert (rotate(x, positions) - wanted).abs().max() < 1e-6
    double = rotate(x.double(), positions)
    assert double.dtype == torch.float64 and (double - wanted).abs().max() < 1e-9
    half = rotate(x.bfloat16(), positions)
    assert half.dtype == torch.bfloat16 and (half - wanted).abs().max() < 0.1
