"""A state of another dtype is refused with what to do, in every memory and model."""

import pytest
import torch
from torch.utils._pytree import tree_map_only

from tests.memory.memories import MEMORIES
from tests.models.models import MODELS
from tests.problems import generator

ALL = [*(("memory", name) for name in MEMORIES), *(("model", name) for name in MODELS)]


def draw(kind, seed=0):
    if kind == "model":
        return torch.randint(11, (2, 5), generator=generator(seed))
    return torch.randn(2, 5, 8, generator=generator(seed))


def converted(state, dtype):
    return tree_map_only(torch.Tensor, lambda w: w.to(dtype) if w.is_floating_point() else w, state)


@pytest.mark.parametrize("kind, name", ALL)
def test_a_state_of_another_dtype_is_refused_with_what_to_do(kind, name):
    memory = (MEMORIES if kind == "memory" else MODELS)[name](8, 4)
    _, state = memory(draw(kind))
    x = draw(kind, seed=1)
    with pytest.raises(
        ValueError, match=r"is torch.float64, but here .* with .to\(torch.float32\)"
    ):
        memory(x, converted(state, torch.float64))
    memory(x, converted(converted(state, torch.float64), torch.float32))
