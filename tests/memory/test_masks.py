"""Texts of different length in one batch, and tokens that a memory reads and does not write."""

import pytest
import torch

from nested.memory import LinearMemory, pick, stack_states
from nested.memory.masks import piece_sizes
from nested.memory.sequence import SequenceMemory
from nested.models import Hope, ModelConfig, Transformer
from tests.memory.memories import MEMORIES
from tests.problems import generator


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", MEMORIES)
def test_the_fast_form_is_the_definition_one_token_at_a_time(name):
    """The reads of written tokens, and the memory; a read may see its own dropped write."""
    memory, x = MEMORIES[name](6, 4).double(), draw(3, 23, 6)
    write = torch.rand(3, 23, generator=generator()) < 0.5
    position = torch.tensor([0, 3, 0])
    _, state = memory(x[:, :3], lengths=[0, 3, 0])
    ours = memory.read_masked(x, state["memory"], position, write)
    wanted = SequenceMemory.read_masked(memory, x, state["memory"], position, write)
    assert torch.allclose(ours[0][write], wanted[0][write], rtol=0, atol=1e-12)
    for a, b in zip(*map(torch.utils._pytree.tree_leaves, (ours[1], wanted[1])), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MEMORIES)
def test_gradients_of_texts_in_a_batch_are_those_of_each_alone(name):
    memory, x, lengths = MEMORIES[name](6, 4).double(), draw(3, 13, 6), [13, 6, 0]
    parameters = list(memory.parameters())
    y, _ = memory(x, lengths=lengths)
    ours = torch.autograd.grad(y.square().sum(), parameters, materialize_grads=True)
    alone = [memory(x[b : b + 1, :n])[0].square().sum() for b, n in enumerate(lengths) if n]
    wanted = torch.autograd.grad(sum(alone), parameters, materialize_grads=True)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, wanted, strict=True))


def test_truncation_counts_the_tokens_of_each_sample():
    memory, x = LinearMemory(4, detach_every=5).double(), draw(2, 12, 4).requires_grad_()
    _, state = memory(x[:, :3], lengths=[3, 0])
    y, _ = memory(x[:, 3:], state)
    first, second = (torch.autograd.grad(y[b].sum(), x, retain_graph=True)[0] for b in (0, 1))
    assert first[0, :3].any()  # before the cut after its fifth token
    late = torch.autograd.grad(y[0, 2:].sum(), x, retain_graph=True)[0]
    assert not late[0, :5].any()  # the first of these is its sixth token
    late = torch.autograd.grad(y[1, 2:5].sum(), x)[0]
    assert late[1, 3:5].any() and not second[1, :3].any()


@pytest.mark.parametrize("period", [3, 4])
def test_pieces_end_where_the_period_of_any_sample_ends(period):
    write = torch.rand(3, 30, generator=generator()) < 0.7
    position = torch.tensor([0, 1, 5])
    counts = position[:, None] + write.cumsum(1)
    sizes = piece_sizes(position, 30, period, write)
    ends = {sum(sizes[:i]) - 1 for i in range(1, len(sizes))}
    due = (write & (counts % period == 0)).any(0)
    assert sum(sizes) == 30 and ends == {t for t in range(29) if due[t]}


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod", "attention"])
def test_one_model_reads_on_from_samples_at_any_position(mixer):
    """As a server does: one token for each of many texts of different length."""
    torch.manual_seed(0)
    model = Hope(ModelConfig(11, 8, 2, 2, mixer, (4, 8), 4)).double()
    tokens = torch.randint(11, (5, 20), generator=generator())
    states = [model(tokens[b : b + 1, : 3 * b + 1])[1] for b in range(5)]
    together = stack_states(states)
    for t in range(15, 20):
        logits, together = model(tokens[:, t : t + 1], together)
        for b in range(5):
            own, states[b] = model(tokens[b : b + 1, t : t + 1], states[b])
            assert torch.allclose(logits[b], own[0], rtol=0, atol=1e-12)
    kept = pick(together, [4, 1])
    own, _ = model(tokens[[4, 1]], kept)
    for b, logits in zip((4, 1), own):
        assert torch.allclose(logits, model(tokens[b : b + 1], states[b])[0][0], rtol=0, atol=1e-12)


def test_what_is_not_written_is_still_read_by_attention_and_the_convolution():
    model = Transformer(ModelConfig(11, 8, 2, 2)).double()
    tokens = torch.randint(11, (2, 9), generator=generator())
    none = torch.zeros(2, 9, dtype=torch.bool)
    assert torch.equal(model(tokens, write=none)[0], model(tokens)[0])


def mask(*shape):
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize(
    "masks, message",
    [
        ({"lengths": [3, 6]}, "lengths are from 0 to 5 tokens, but got 3 to 6"),
        ({"lengths": [-1, 5]}, "lengths are from 0 to 5 tokens, but got -1 to 5"),
        ({"lengths": "ab"}, "lengths are whole numbers, one for each of 2 samples, but got 'ab'"),
        ({"lengths": [None, 3]}, r"one for each of 2 samples, but got \[None, 3\]"),
        ({"lengths": [3]}, r"one for each of 2 samples, but got torch.int64 \(1,\)"),
        ({"lengths": torch.tensor([3.0, 2.0])}, "lengths are whole numbers, .* got torch.float32"),
        ({"lengths": torch.tensor([3j, 2])}, "lengths are whole numbers, .* got torch.complex64"),
        ({"write": mask(2, 4)}, r"write is a bool mask \(2, 5\), but got torch.bool \(2, 4\)"),
        ({"write": mask(2, 5).float()}, r"bool mask \(2, 5\), but got torch.float32"),
        ({"write": True}, r"write is a bool mask \(2, 5\), but got True"),
    ],
)
def test_wrong_lengths_and_masks_are_refused_in_words(masks, message):
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    models = [Transformer(ModelConfig(11, 8, 1, 2)), Hope(ModelConfig(11, 8, 1, 2, "linear"))]
    for read in [lambda **m: LinearMemory(4)(draw(2, 5, 4).float(), **m)] + [
        lambda model=model, **m: model(tokens, **m) for model in models
    ]:
        with pytest.raises(ValueError, match=message):
            read(**masks)


def test_states_that_do_not_fit_are_refused_in_words():
    with pytest.raises(ValueError, match="one state or more, but got none"):
        stack_states([])
    one, other = LinearMemory(4).init(1), MEMORIES["titans"](4, 4).init(1)
    with pytest.raises(ValueError, match="states of one model, but these have different parts"):
        stack_states([one, other])
    with pytest.raises(IndexError):
        pick(one, [1])
