"""Rates that reach both ends: a memory that keeps or flips its state exactly, for ever."""

from itertools import combinations, permutations, product

import pytest
import torch

from nested.memory import SelfModifyingTitans, shut
from nested.memory.gates import HardGate
from nested.memory.linear import by_chunks
from nested.tasks.languages import WordProblem


@pytest.mark.parametrize("start, top", [(0.5, 1.0), (1.0, 2.0), (0.1, 0.95)])
def test_a_hard_gate_reaches_both_its_ends_and_comes_back_from_them(start, top):
    raw = torch.tensor([-5.0, 0.0, 5.0])
    assert torch.allclose(HardGate(start, top, 3)(raw), torch.tensor([0.0, start, top]))
    assert torch.allclose(HardGate(start, top)(0.0), torch.tensor([start]))
    assert HardGate(start, top)(raw[::2]).tolist() == [0, torch.tensor(top).item()]  # exactly
    raw = torch.linspace(-0.6, 0.6, 13, requires_grad=True)
    (slope,) = torch.autograd.grad(HardGate(start, top)(raw).sum(), raw)
    assert (slope > 0.1 * top).all()  # no start is dead, nor is an end
    gate = HardGate(start, top).eval()
    (slope,) = torch.autograd.grad(gate(raw).sum(), raw)
    assert ((slope > 0) == (gate(raw) > 0) & (gate(raw) < top)).all()
    shut(gate)
    assert not gate(torch.ones(3)).any()


def test_at_its_ends_the_delta_rule_counts_to_two_for_ever():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(2, (4, 8192), generator=generator)
    key = torch.nn.functional.normalize(torch.randn(1, 1, 6, generator=generator), dim=-1)
    keys, values = key.expand(4, 8192, 6), torch.zeros(4, 8192, 6)
    first = torch.randn(4, 6, 6, generator=generator)
    wanted = (1 - 2.0 * (bits.cumsum(1) % 2))[..., None] * (first @ key[0].mT).mT.reshape(4, 1, 6)
    for rates, is_exact in ((2.0 * bits, True), (1.98 * bits, False)):
        reads, _ = by_chunks(keys, values, keys, rates, torch.zeros(4, 8192), first, chunk=16)
        assert ((reads - wanted).abs().max() < 0.01) == is_exact


def test_two_reflections_a_token_follow_the_word_problem_of_s3():
    """Each element of S3 is a swap, or a product of two. Swapping x and y reflects e_x - e_y."""
    task = WordProblem("S3", length=4096, batch_size=3)
    tokens, products = task.batch(torch.Generator().manual_seed(0))
    unit = torch.eye(3)
    swaps = [(unit[x] - unit[y]) / 2**0.5 for x, y in combinations(range(3), 2)]
    keys_of = {}  # of each element: the keys of its two writes
    for first, second in product(swaps, [*swaps, torch.zeros(3)]):
        moved = (unit - 2 * torch.outer(second, second)) @ (unit - 2 * torch.outer(first, first))
        keys_of[tuple(moved.argmax(0).tolist())] = torch.stack([first, second])
    elements = list(permutations(range(3)))
    keys = torch.stack([keys_of[elements[token]] for token in tokens.flatten()]).view(3, -1, 3)
    rates, log_kept = torch.full(keys.shape[:2], 2.0), torch.zeros(keys.shape[:2])
    for place in range(3):  # M e_place says which of the three things is there
        queries = unit[place].expand_as(keys)
        first = unit.expand(3, 3, 3)
        reads, _ = by_chunks(keys, 0 * keys, queries, rates, log_kept, first)
        wanted = torch.tensor(elements)[products] == place
        assert (reads[:, 1::2] - wanted.float()).abs().max() < 0.01


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_token_that_keeps_or_flips_a_state_leaves_the_rules_as_they_are(share):
    torch.manual_seed(0)
    memory = SelfModifyingTitans(8, chunk=4).double()
    top = memory.main_rate.top
    memory.main_rate.forward = lambda raw: torch.full_like(raw, share * top)
    _, state = memory(torch.randn(2, 12, 8).double())
    first, now = memory.init(2)["memory"]["now"], state["memory"]["now"]
    assert (now["w1"][:, 0] != first["w1"][:, 0]).any() == bool(share)  # what is stored
    for before, after in zip(rules_of(first), rules_of(now)):
        kept = after / before  # forgetting alone, one number for all of a sample
        assert torch.allclose(kept, kept[:, :1].expand_as(kept), rtol=1e-9)


def rules_of(weights):
    """All but the W1 of the main memory, (B, ...) each, flattened."""
    return [w.flatten(1) for w in (weights["w1"][:, 1:], weights["w2"], weights["gates"])]
