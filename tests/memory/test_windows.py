"""Windows of a long text: with ``detached(state)`` between them, memory stays flat."""

import gc

import pytest
import torch

from nested import detached
from nested.memory import sequence
from nested.unroll import dispatch
from tests.memory.memories import MEMORIES
from tests.models.models import MODELS
from tests.problems import generator
from tests.unroll.test_windows import graph_size, tensors_alive


@pytest.fixture(autouse=True)
def only_new_objects():
    """Count no tensors made before: to look at all objects takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_there_is_one_function():
    assert detached is dispatch.detached is sequence.detached


def read_windows(memory, x, count, cut):
    """The graph's size and the tensors alive after each window of 16 tokens, all learned from."""
    state, sizes = None, []
    for _ in range(count):
        y, state = memory(x, state)
        sizes.append(graph_size(y.sum()))
        if cut:
            y.sum().backward()
            memory.zero_grad()
            del y
            state = detached(state)
            sizes[-1] = sizes[-1], tensors_alive()
    return sizes


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_is_flat_over_windows_that_are_cut(name):
    memory, x = MEMORIES[name](6, 4), torch.randn(2, 16, 6, generator=generator())
    check_flat(memory, x)


@pytest.mark.parametrize("name", ["linear", "titans", "selfmod"])
def test_so_it_is_for_a_hope(name):
    check_flat(MODELS[name](8, 4), torch.randint(11, (2, 16), generator=generator()))


def check_flat(memory, x):
    graphs, alive = zip(*read_windows(memory, x, 7, cut=True))
    assert len(set(graphs[3:])) == 1 and len(set(alive[3:])) == 1
    whole = read_windows(memory, x, 5, cut=False)
    assert all(a < b for a, b in zip(whole, whole[1:]))
