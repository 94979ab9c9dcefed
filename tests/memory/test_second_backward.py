"""A backward through a state whose graph is gone says what to do, and no other one does."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from nested import detached
from tests.memory.memories import MEMORIES
from tests.models.models import MODELS
from tests.problems import generator

ALL = [*(("memory", name) for name in MEMORIES), *(("model", name) for name in MODELS)]
LENGTHS = [(9, 3), (3, 9), (16, 16), (1, 1), (18, 1), (18, 18)]


def build(kind, name):
    torch.manual_seed(0)
    return (MEMORIES if kind == "memory" else MODELS)[name](8, 4)


def draw(kind, tokens, seed=0):
    if kind == "model":
        return torch.randint(11, (2, tokens), generator=generator(seed))
    return torch.randn(2, tokens, 8, generator=generator(seed))


@pytest.mark.parametrize("first, second", LENGTHS)
@pytest.mark.parametrize("kind, name", ALL)
def test_a_second_backward_through_a_state_says_what_to_do(kind, name, first, second):
    """Also where its graph would still be there: it grows with each text."""
    memory = build(kind, name)
    y, state = memory(draw(kind, first))
    y.sum().backward()
    y, _ = memory(draw(kind, second, seed=1), state)
    with pytest.raises(RuntimeError, match=r"pass detached\(state\) on, or keep .*retain_graph"):
        y.sum().backward()


@pytest.mark.parametrize("kind, name", ALL)
def test_usual_backwards_go_through(kind, name):
    """One backward through both texts; two with the graph kept; two with the state detached."""
    memory = build(kind, name)
    x, later = draw(kind, 18), draw(kind, 7, seed=1)
    parameters = list(memory.parameters())
    y, state = memory(x)
    both = torch.cat([y, memory(later, state)[0]], dim=1)
    wanted = torch.autograd.grad(both.sum(), parameters, allow_unused=True)
    y, state = memory(x)
    early = torch.autograd.grad(y.sum(), parameters, retain_graph=True, allow_unused=True)
    late = torch.autograd.grad(memory(later, state)[0].sum(), parameters, allow_unused=True)
    for whole, a, b in zip(wanted, early, late, strict=True):
        a, b = (0 if part is None else part for part in (a, b))
        assert whole is None or torch.allclose(whole, a + b, rtol=1e-4, atol=1e-4)
    y, state = memory(x)
    y.sum().backward()
    memory(later, detached(state))[0].sum().backward()


@pytest.mark.parametrize("kind, name", ALL)
def test_a_result_may_be_changed_in_place(kind, name):
    memory = build(kind, name)
    y, _ = memory(draw(kind, 18))
    wanted = torch.autograd.grad(
        (2 * y).square().sum(), list(memory.parameters()), allow_unused=True
    )
    y, _ = memory(draw(kind, 18))
    y *= 2
    grads = torch.autograd.grad(y.square().sum(), list(memory.parameters()), allow_unused=True)
    for ours, theirs in zip(grads, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind, name", ALL)
def test_what_is_one_tensor_in_a_state_stays_one(kind, name):
    memory = build(kind, name)
    with torch.no_grad():
        _, without = memory(draw(kind, 16))
    _, state = memory(draw(kind, 16))
    alike = [
        [a is b for b in leaves] for leaves in map(tree_leaves, (without, state)) for a in leaves
    ]
    assert alike[: len(alike) // 2] == alike[len(alike) // 2 :]


@pytest.mark.parametrize("name", ["linear", "titans", "selfmod"])
def test_a_gradient_of_the_state_alone_needs_no_graph_before_it(name):
    memory = build("memory", name)
    y, state = memory(draw("memory", 18))
    y.sum().backward()
    y, _ = memory(draw("memory", 7, seed=1), state)
    now = state["memory"].get("now", state["memory"])
    for weights in now.values():
        (grad,) = torch.autograd.grad(y.sum(), weights, retain_graph=True, allow_unused=True)
        assert grad is not None and grad.any()


@pytest.mark.parametrize("kind, name", ALL)
def test_a_state_of_another_dtype_is_refused_with_what_to_do(kind, name):
    memory = build(kind, name)
    _, state = memory(draw(kind, 5))
    x = draw(kind, 5, seed=1)
    with pytest.raises(
        ValueError, match=r"is torch.float64, but here .* with .to\(torch.float32\)"
    ):
        memory(x, converted(state, torch.float64))
    memory(x, converted(converted(state, torch.float64), torch.float32))


def converted(state, dtype):
    return tree_map_only(torch.Tensor, lambda w: w.to(dtype) if w.is_floating_point() else w, state)
