"""Each memory against a loop over tokens, written from its equations, with autograd inside."""

import pytest
import torch

from nested.memory import LinearMemory, by_chunks, by_tokens
from tests.memory import loops
from tests.memory.memories import MEMORIES, nudged

LOOPS = {
    "linear": loops.linear,
    "dot": loops.linear,
    "linear, 3 products": loops.linear,
    "dot, 2 products": loops.linear,
    "titans": loops.titans,
    "titans, 2 heads": loops.titans,
    "selfmod": loops.self_modifying,
    "selfmod, start": loops.self_modifying,
    "selfmod, dot": loops.self_modifying,
    "selfmod, start, 2 products": loops.self_modifying,
    "selfmod, 2 heads": loops.self_modifying,
    "selfmod, 3 products": loops.self_modifying,
    "sequential": loops.continuum,
    "independent": loops.continuum,
    "nested": loops.nested_continuum,
}


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 8])
@pytest.mark.parametrize("name", MEMORIES)
def test_equals_the_loop_written_from_the_equations(name, chunk):
    torch.manual_seed(0)
    memory, x = nudged(MEMORIES[name](6, chunk)), draw(2, 41, 6)
    y, _ = memory(x)
    wanted = torch.stack([LOOPS[name](memory, sample) for sample in x])
    assert (y - wanted).abs().max() < 1e-9
    mix = draw(2, 41, 6, seed=1)  # and so do the outer gradients, through all inner ones
    ours = torch.autograd.grad((y * mix).sum(), list(memory.parameters()))
    theirs = torch.autograd.grad((wanted * mix).sum(), list(memory.parameters()))
    for (parameter, p), a, b in zip(memory.named_parameters(), ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-9 * (1 + b.abs().max()), parameter


@pytest.mark.parametrize("name", [name for name in LOOPS if MEMORIES[name](6, 8).has_keys])
def test_keys_made_from_other_vectors_equal_the_loop_at_any_cut(name):
    torch.manual_seed(0)
    memory, x, keys = nudged(MEMORIES[name](6, 8)), draw(2, 41, 6), draw(2, 41, 6, seed=1)
    wanted = torch.stack([LOOPS[name](memory, *sample) for sample in zip(x, keys)])
    assert (memory(x, keys=keys)[0] - wanted).abs().max() < 1e-9
    first, state = memory(x[:, :13], keys=keys[:, :13])
    whole = torch.cat([first, memory(x[:, 13:], state, keys=keys[:, 13:])[0]], dim=1)
    assert (whole - wanted).abs().max() < 1e-9
    padded, _ = memory(x, keys=keys, lengths=[20, 41])
    assert (padded[0, :20] - wanted[0, :20]).abs().max() < 1e-9
    assert (padded[1] - wanted[1]).abs().max() < 1e-9


def test_keys_from_the_tokens_are_the_default_and_a_wrong_shape_is_refused():
    memory, x = LinearMemory(6), torch.randn(2, 5, 6)
    assert torch.allclose(memory(x, keys=x)[0], memory(x)[0], atol=1e-6)
    with pytest.raises(ValueError, match="keys have the shape and dtype of the tokens"):
        memory(x, keys=x[:, 1:])
    with pytest.raises(ValueError, match="but got .2, 5, 6., torch.float64"):
        memory(x, keys=x.double())


@pytest.mark.parametrize("objective", ["l2", "dot"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 8, 64, 67, 100])
def test_chunks_equal_the_recurrence(objective, chunk):
    k, v, q, matrix = draw(2, 67, 5), draw(2, 67, 5, seed=1), draw(2, 67, 5, seed=2), draw(2, 5, 5)
    k = k / k.norm(dim=-1, keepdim=True)
    rates, log_kept = 2 * draw(2, 67, seed=3).sigmoid(), -draw(2, 67, seed=4).exp()
    rates[:, ::9], rates[:, 4::9] = 0, 2  # both ends included
    ours = by_chunks(k, v, q, rates, log_kept, matrix, objective, chunk)
    wanted = by_tokens(k, v, q, rates, log_kept, matrix, objective)
    assert all((a - b).abs().max() < 1e-9 for a, b in zip(ours, wanted))


def test_a_memory_wiped_at_every_token_stays_finite_in_chunks():
    k, v = torch.ones(1, 64, 1), torch.ones(1, 64, 1)
    log_kept = torch.full((1, 64), -50.0)  # b_t / b_s would overflow above the diagonal
    y, matrix = by_chunks(k, v, k, torch.ones(1, 64), log_kept, torch.ones(1, 1, 1))
    assert torch.equal(y, torch.ones(1, 64, 1)) and torch.equal(matrix, torch.ones(1, 1, 1))


def test_linear_attention_is_a_sum_over_all_tokens_before():
    """y_t = sum_s (q_t . k_s) v_s, the quadratic form of eq. 12."""
    k, v, q = draw(1, 30, 4), draw(1, 30, 4, seed=1), draw(1, 30, 4, seed=2)
    ones = torch.ones(1, 30, dtype=torch.float64)
    y, _ = by_chunks(k, v, q, ones, 0 * ones, torch.zeros(1, 4, 4).double(), "dot", chunk=8)
    assert (y - (q @ k.mT).tril() @ v).abs().max() < 1e-12


def test_the_delta_rule_solves_least_squares_in_the_end():
    """Kaczmarz 1937: with n = 1 and one key after another, M k = v for all, if it can be."""
    keys, wanted = draw(1, 4, 5), draw(5, 5, seed=1)
    keys = (keys / keys.norm(dim=-1, keepdim=True)).repeat(1, 600, 1)
    ones = torch.ones(1, 2400, dtype=torch.float64)
    values = keys @ wanted.T
    _, matrix = by_chunks(keys, values, keys, ones, 0 * ones, torch.zeros(1, 5, 5).double())
    solution = torch.linalg.lstsq(keys[0, :4], values[0, :4]).solution.T
    assert (matrix[0] - solution).abs().max() < 1e-9


def test_linear_memory_reads_its_own_token():
    memory = LinearMemory(4)
    x = torch.randn(1, 1, 4)
    y, state = memory(x)
    q = torch.nn.functional.normalize(memory.query(x), dim=-1)
    assert torch.allclose(y, q @ state["memory"]["matrix"].mT) and y.abs().sum() > 0
