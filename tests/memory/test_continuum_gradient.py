"""The way back that is written out has autograd's numbers, and is used where it may be."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from nested.memory import continuum
from nested.memory.continuum import ContinuumLevel, ContinuumMemory, learn
from nested.memory.continuum_gradient import FEW, WrittenOut
from tests.memory.memories import nudged


def drawn(tokens, dim=5, size=1.0):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(2, tokens, dim)] * 3 + [(2, tokens, 1)] + [(2, dim, dim)] * 2
    found = [size * torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    found[3] = found[3].abs()
    return [x.requires_grad_() for x in found]


def by_autograd(inputs):
    y, change1, change2 = learn(*inputs)
    return y, inputs[4] + change1, inputs[5] + change2


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])  # damped hardly, here and there, everywhere
def test_it_has_autograds_numbers(tokens, size):
    inputs = drawn(tokens, size=size)
    ours, others = WrittenOut.apply(learn, *inputs), by_autograd(inputs)
    mixes = [torch.randn_like(y) for y in others]
    ours += torch.autograd.grad(ours, inputs, mixes)
    others += torch.autograd.grad(others, inputs, mixes)
    for a, b in zip(ours, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_central_differences_confirm_it_and_its_own_derivative():
    def written_out(*inputs):
        return WrittenOut.apply(learn, *inputs)

    inputs = drawn(2, dim=2)
    assert torch.autograd.gradcheck(written_out, inputs)
    assert torch.autograd.gradgradcheck(written_out, inputs)


@pytest.mark.parametrize("off", [0, 1e-7, 1e-5])
def test_errors_near_zero_are_no_poles(off):
    inputs = drawn(3)
    with torch.no_grad():
        inputs[2].copy_(torch.nn.functional.silu(inputs[1] @ inputs[5].mT) @ inputs[4].mT + off)
    grads = [
        torch.autograd.grad(sum(y.sum() for y in outputs), inputs)
        for outputs in (WrittenOut.apply(learn, *inputs), by_autograd(inputs))
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("asked", [[0], [1], [2], [3], [4], [5]])
def test_a_part_of_the_inputs_may_want_gradients(asked):
    inputs = [x.detach().requires_grad_(i in asked) for i, x in enumerate(drawn(3))]
    outputs = WrittenOut.apply(learn, *inputs), by_autograd(inputs)
    for again in (False, True):
        ours, others = (
            torch.autograd.grad(
                sum(y.square().sum() for y in found),
                [inputs[i] for i in asked],
                create_graph=again,
                retain_graph=True,
            )
            for found in outputs
        )
        torch.testing.assert_close(ours, others, rtol=1e-10, atol=1e-11)


def plain(x):
    return False


@pytest.mark.parametrize("form", ["sequential", "nested"])
def test_second_derivatives_go_through_many_moves(form, monkeypatch):
    memory, found = nudged(ContinuumMemory(3, (2, 4), form)), []
    x = torch.randn(2, 11, 3, dtype=torch.float64, requires_grad=True)
    for is_written_out in (True, False):
        if not is_written_out:
            monkeypatch.setattr(continuum, "is_worth_it", plain)
        asked = [x, *memory.parameters()]
        first = torch.autograd.grad(memory(x)[0].square().sum(), asked, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), asked)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_it_can_be_checkpointed_and_what_it_reads_written_to():
    level = ContinuumLevel(4, 8)
    x = torch.randn(1, 8, 4, requires_grad=True)
    y = checkpoint(lambda x: level(x)[0], x, use_reentrant=False)
    (ours,) = torch.autograd.grad(y.sum(), x)
    z = level(x)[0]
    z.mul_(1)
    torch.testing.assert_close(ours, torch.autograd.grad(z.sum(), x)[0])


@pytest.mark.parametrize("chunk", [1, 8, FEW])
def test_a_level_reads_the_same_with_and_without_it(chunk, monkeypatch):
    level, found = nudged(ContinuumLevel(6, chunk)), []
    x = torch.randn(2, 67, 6, dtype=torch.float64, requires_grad=True)
    for is_written_out in (True, False):
        if not is_written_out:
            monkeypatch.setattr(continuum, "is_worth_it", plain)
        y, state = level(x[:, :13])
        z, state = level(x[:, 13:], state)
        outputs = [y, z, *state["memory"]["now"].values()]
        asked = [x, *level.parameters()]
        grads = torch.autograd.grad(sum(o.square().sum() for o in outputs), asked)
        assert ("WrittenOutBackward" in ancestors(z)) == is_written_out
        found.append([*outputs, *grads])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_chunks_of_many_tokens_are_left_to_autograd():
    y, _ = ContinuumLevel(4, FEW + 1)(torch.randn(1, FEW + 1, 4))
    assert "WrittenOutBackward" not in ancestors(y)


def ancestors(y):
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


@pytest.mark.parametrize("how", ["autocast", "torch.func", "forward", "no_grad"])
def test_it_gives_way(how, monkeypatch):
    monkeypatch.setattr(WrittenOut, "forward", None)  # calling it would raise
    level, x = ContinuumLevel(4, 8), torch.randn(2, 20, 4)
    weights = {name: p.detach() for name, p in level.named_parameters()}

    def total(weights):
        return torch.func.functional_call(level, weights, (x,))[0].sum()

    if how == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert level(x)[0].isfinite().all()
    elif how == "forward":
        with torch.autograd.forward_ad.dual_level():
            y = level(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))[0]
            assert torch.autograd.forward_ad.unpack_dual(y).tangent.isfinite().all()
    elif how == "torch.func":
        assert all(g.isfinite().all() for g in torch.func.grad(total)(weights).values())
    else:
        with torch.no_grad():
            assert level(x)[0].isfinite().all()
    if how == "no_grad":
        with pytest.raises(TypeError):
            level(x)
