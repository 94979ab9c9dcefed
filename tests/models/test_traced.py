"""Memories and models as exported or compiled programs: whole graphs, right at any position."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

from nested.memory import ContinuumMemory
from nested.memory.sequence import detached
from tests.memory.memories import MEMORIES
from tests.models.models import MODELS
from tests.problems import generator

ALL = {**{f"memory {name}": make for name, make in MEMORIES.items()}, **MODELS}
ALL["memory nested, two levels"] = lambda dim, chunk: ContinuumMemory(dim, (2, chunk), "nested")
CUTS = [3, 4, 8, 9, 15, 16]  # within chunks, at their ends, and at those of slower levels


def build(name, tokens):
    torch.manual_seed(0)
    module = ALL[name](8, 4).double()
    if hasattr(module, "config"):
        return module, torch.randint(11, (2, tokens), generator=generator())
    return module, torch.randn(2, tokens, 8, generator=generator(), dtype=torch.float64)


def leaves(tree):
    return tree_leaves(tree)


def assert_close(ours, wanted):
    for a, b in zip(leaves(ours), leaves(wanted), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def keeps_all(name):
    return name in ("transformer", "attention")


@pytest.mark.parametrize("name", [*[f"memory {name}" for name in MEMORIES], "linear, dot"])
def test_an_exported_program_goes_on_from_any_position(name):
    (module, x), length = build(name, 20), 2
    with torch.no_grad():
        _, state = module(x[:, :16])
        state = tree_map(torch.clone, state)  # weights now are no more the tensors of the start
        program = torch.export.export(module, (x[:, 16 : 16 + length], state)).module()
        for at in CUTS:
            some = x[:, at : at + length]
            _, state = module(x[:, :at])
            assert_close(program(some, state), module(some, state))


@pytest.mark.parametrize("name", [name for name in ALL if keeps_all(name)])
def test_an_exported_program_takes_caches_of_any_length(name):
    module, x = build(name, 20)
    caches = torch.export.Dim("past", min=2, max=512)

    def grows(leaf):
        return {2: caches} if leaf.dim() == 4 and leaf.shape[2] == 8 else {}

    with torch.no_grad():
        _, state = module(x[:, :8])
        state = tree_map(torch.clone, state)
        shapes = (None, tree_map(grows, state))
        some = x[:, 8:9]
        program = torch.export.export(module, (some, state), dynamic_shapes=shapes).module()
        for at in CUTS:
            _, state = module(x[:, :at])
            assert_close(program(x[:, at : at + 1], state), module(x[:, at : at + 1], state))


@pytest.mark.parametrize("name", ["memory nested", "transformer", "linear, dot"])
def test_an_exported_program_starts_anew(name):
    module, x = build(name, 11)
    with torch.no_grad():
        program = torch.export.export(module, (x,)).module()
        assert_close(program(x), module(x))


@pytest.mark.parametrize(
    "name, tokens",
    [("memory titans", 31), ("memory linear", 31), ("memory nested, two levels", 21)],
)
def test_the_compiler_takes_the_whole_graph_of_many_chunks_from_any_number(name, tokens):
    """A part of a chunk, whole ones in a loop that is compiled once, and a rest."""
    module, x = build(name, tokens)
    _, state = module(x[:, :3])
    assert_compiles(module, x[:, 3:], {**detached(state), "position": 3})


def test_the_compiler_takes_the_whole_graph_of_a_model():
    assert_compiles(*build("transformer", 11))


def assert_compiles(module, x, state=None):
    """Reads, states and gradients are those of the module (eager kernels, to compile in time)."""
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    found = []
    for read in (compiled, module):
        y, after = read(x, state)
        grads = torch.autograd.grad(y.square().sum(), [*module.parameters()], allow_unused=True)
        found.append(
            [y, after, [0 * w if g is None else g for g, w in zip(grads, module.parameters())]]
        )
    assert_close(*found)


@pytest.mark.parametrize("name", ["titans", "memory titans", "memory nested"])
def test_states_with_one_tensor_twice_are_refused_by_export(name):
    """The exported program would read all later states by their weights now, silently."""
    module, x = build(name, 17)
    _, state = module(x[:, :16])
    with pytest.raises(ValueError, match="a copy of each"):
        torch.export.export(module, (x[:, 16:], state))


@pytest.mark.parametrize("name", MEMORIES)
def test_states_name_their_parts_in_one_order(name):
    module, x = build(f"memory {name}", 5)
    assert tree_structure(module(x)[1]) == tree_structure(module.init(2))
