"""A memory of what followed each n-gram: the definition, its capacity, and what it refuses."""

import math

import pytest
import torch

from nested.memory import NGramMemory, by_tokens
from nested.memory.ngram_memory import set_price
from nested.models.ngrams import CODE, NGrams
from tests.problems import generator

DIM, COUNT = 6, 2


def build(dim=DIM, count=COUNT, code=CODE):
    torch.manual_seed(0)
    memory = NGramMemory(dim, count, code, chunk=4).double()
    for part in (memory.choose_rate, memory.out):  # both start at zero
        torch.nn.init.normal_(part.weight)
    return memory


def codes_of(tokens, sizes=(3, 2)):
    return NGrams(DIM, (), sizes)(tokens)[1].double()


def text(length):
    """Two random texts: vectors (2, length, DIM), and the codes of their n-grams."""
    tokens = torch.randint(4, (2, length), generator=generator())
    x = torch.randn(2, length, DIM, generator=generator(), dtype=torch.float64)
    return x, codes_of(tokens)


def test_it_is_the_delta_rule_with_codes_as_keys():
    memory, (x, codes) = build(), text(30)
    y, state = memory(x, keys=codes)
    values = memory.value(x).unflatten(-1, (COUNT, -1))
    rates = memory.rate(memory.choose_rate(x))
    reads, matrices = [], []
    for i in range(COUNT):
        read, matrix = by_tokens(
            codes[:, :-1, i],
            values[:, :, i],
            codes[:, 1:, i],
            rates[:, :, i],
            torch.zeros(2, 30, dtype=torch.float64),
            torch.zeros(2, values.shape[-1], CODE, dtype=torch.float64),
        )
        reads.append(read)
        matrices.append(matrix)
    assert (y - memory.out(torch.cat(reads, dim=-1))).abs().max() < 1e-9
    assert (state["memory"]["matrix"] - torch.cat(matrices, dim=1)).abs().max() < 1e-9


def test_parts_masks_and_lengths_give_what_one_call_gives():
    memory, (x, codes) = build(), text(20)
    whole, after = memory(x, keys=codes)
    first, state = memory(x[:, :7], keys=codes[:, :8])
    rest, state = memory(x[:, 7:], state, keys=codes[:, 7:])
    assert (torch.cat([first, rest], dim=1) - whole).abs().max() < 1e-9
    difference = state["memory"]["matrix"] - after["memory"]["matrix"]
    assert difference.abs().max() < 1e-9
    padded, state = memory(x, keys=codes, lengths=[20, 7])
    assert (padded[1, :7] - whole[1, :7]).abs().max() < 1e-9 and not padded[1, 7:].any()
    _, frozen = memory(x, keys=codes, write=torch.zeros(2, 20, dtype=torch.bool))
    assert not frozen["memory"]["matrix"].any() and frozen["position"].tolist() == [0, 0]


def test_it_tells_eighty_n_grams_apart_that_it_never_saw_in_training():
    """20 facts of four digits are 80 bindings. The read of each is nearest to the right value."""
    torch.manual_seed(0)
    memory = NGramMemory(10, 1, CODE).double()
    torch.nn.init.constant_(memory.rate.offset, 9.0)  # all rates are 1
    digits = torch.randint(10, (80,), generator=generator())
    codes = torch.randint(2, (1, 81, 1, CODE), generator=generator()) * 2.0 - 1
    codes = codes.double() / CODE**0.5
    x = torch.eye(10, dtype=torch.float64)[digits][None]
    matrix = memory(x, keys=codes)[1]["memory"]["matrix"][0]
    values = memory.value(torch.eye(10, dtype=torch.float64))
    found = torch.cdist(codes[0, :-1, 0] @ matrix.T, values).argmin(-1)
    assert (found == digits).double().mean() > 0.97


@pytest.mark.parametrize("lengths", [None, [9, 4]])
def test_a_price_adds_the_rates_of_what_is_written_to_the_loss(lengths):
    memory, (x, codes) = build(), text(9)
    set_price(memory, 0.03)
    memory(x, keys=codes, lengths=lengths)[0].square().sum().backward()
    priced = [p.grad.clone() for p in memory.choose_rate.parameters()]
    rates = memory.rate(memory.choose_rate(x))
    present = torch.arange(9) < torch.tensor(lengths or [9, 9])[:, None]
    memory.zero_grad()
    set_price(memory, 0.0)
    loss = memory(x, keys=codes, lengths=lengths)[0].square().sum()
    (loss + 0.03 * (rates * present[..., None]).sum()).backward()
    for p, gradient in zip(memory.choose_rate.parameters(), priced, strict=True):
        assert (p.grad - gradient).abs().max() < 1e-9


def test_other_codes_are_refused():
    memory, x = build(), torch.randn(2, 5, DIM, dtype=torch.float64)
    for codes in (None, codes_of(torch.ones(2, 4).long()), codes_of(torch.ones(2, 5).long(), (2,))):
        with pytest.raises(ValueError, match=r"codes of n-grams are \(2, 6, 2, 512\) here"):
            memory(x, keys=codes)


@pytest.mark.parametrize("price", [-1.0, math.nan, math.inf, "a"])
def test_a_price_or_a_code_that_makes_no_sense_is_refused(price):
    with pytest.raises(ValueError, match="price is a finite number from 0"):
        set_price(NGramMemory(8, 1, 4), price)
    with pytest.raises(ValueError, match="code is a whole number from 1, but got 0"):
        NGramMemory(8, 1, 0)
