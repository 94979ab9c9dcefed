"""Gates at their very ends: a retention or a momentum of exactly 0, as at a document's end."""

import math

import pytest
import torch

from nested.memory import Gate, by_chunks, by_tokens
from nested.memory.linear import decays
from tests.memory.memories import MEMORIES
from tests.memory.test_equations import LOOPS, draw

ENDS = {
    "nowhere": [],
    "the first": [0],
    "the last": [22],
    "a chunk's": [7, 8, 15],
    "one": [5],
    "some": [3, 4, 11, 20],
    "all": list(range(23)),
}
FORGETFUL = ["linear", "dot", "titans", "selfmod", "selfmod, start", "selfmod, dot"]


@pytest.mark.parametrize("log_zero", [-math.inf, -1e30, -1e4])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("objective", ["l2", "dot"])
def test_chunks_equal_the_recurrence_where_all_is_forgotten(objective, ends, log_zero):
    k, v, q = (draw(2, 23, 5, seed=i) for i in range(3))
    k = k / k.norm(dim=-1, keepdim=True)
    log_kept = -0.1 * draw(2, 23, seed=4).exp()
    log_kept[0, ENDS[ends]] = log_zero
    inputs = [k, v, q, draw(2, 23, seed=3).sigmoid(), log_kept, draw(2, 5, 5, seed=5)]
    inputs = [x.requires_grad_() for x in inputs]
    wanted, *theirs = outputs_and_slopes(by_tokens, inputs, objective)
    for chunk in (1, 4, 8, 64):
        ours, *slopes = outputs_and_slopes(by_chunks, inputs, objective, chunk)
        assert torch.allclose(ours, wanted, rtol=1e-10, atol=1e-12)
        for a, b in zip(slopes, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def outputs_and_slopes(read, inputs, *settings):
    y, matrix = read(*inputs, *settings)
    outputs = torch.cat([y.flatten(), matrix.flatten()])
    mix = draw(len(outputs), seed=9)
    return [outputs.detach(), *torch.autograd.grad((outputs * mix).sum(), inputs)]


def test_what_follows_a_retention_of_0_is_as_exact_as_what_comes_before():
    log_kept = torch.full((1, 64), -1e-3)
    log_kept[0, ::2] = -math.inf
    b, decay = decays(log_kept)
    assert torch.equal(b, torch.zeros(1, 64, 1))
    wanted = torch.eye(64)
    wanted[range(1, 64, 2), range(0, 64, 2)] = math.exp(-1e-3)
    assert torch.allclose(decay[0], wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [0.0, 1e3])
@pytest.mark.parametrize("name", FORGETFUL)
def test_memories_whose_forgetting_reaches_1_equal_the_loop(name, bias):
    """``bias`` 0: at tokens far out alone. 1e3: at every token, of one chunk: after it nets are so
    small that the loop, which has no guard against zeros, differs."""
    torch.manual_seed(0)
    memory, x = MEMORIES[name](6, 8).double(), draw(1, 19, 6)
    memory.forgetting = Gate(1e-6, 1e-4, 1.0).double()
    memory.forgetting.register_forward_hook(lambda gate, args, f: gates.append(f.detach()))
    gates = []
    with torch.no_grad():
        memory.forgetting.offset += bias
        x[:, [2, 3, 6, 9, 13]] *= 1e5
        if hasattr(memory, "choose_rate"):
            memory.choose_rate.weight += 0.1
            memory.choose_decay.weight += 0.1
    check_the_loop(name, memory, x[:, :8] if bias else x)
    wiped = torch.cat([g.flatten() for g in gates]) == 1
    assert wiped.any() and (bias > 0 or not wiped.all())


@pytest.mark.parametrize("end", [-1e4, 1e4, None])
def test_a_momentum_at_its_ends_equals_the_loop(end):
    torch.manual_seed(0)
    memory = MEMORIES["titans"](6, 8).double()
    memory.momentum = Gate(1e-300, 0.5, 1.0).double()
    if end is None:
        memory.momentum.shut()
    else:
        torch.nn.init.constant_(memory.momentum.offset, end)
    check_the_loop("titans", memory, draw(1, 19, 6))


def check_the_loop(name, memory, x):
    y, wanted = memory(x)[0], LOOPS[name](memory, x[0])[None]
    assert torch.allclose(y, wanted, rtol=1e-9, atol=1e-9)
    parameters = dict(memory.named_parameters())
    mix = draw(*y.shape, seed=1)
    ours, theirs = (
        torch.autograd.grad((z * mix).sum(), list(parameters.values()), materialize_grads=True)
        for z in (y, wanted)
    )
    for part, a, b in zip(parameters, ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9 * (1 + b.abs().max())), part
