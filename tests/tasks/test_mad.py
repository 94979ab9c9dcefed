"""Each task of MAD asks what it says, as often as it says."""

import pytest
import torch
from torch import nn

from nested.tasks.mad import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    Memorisation,
    NoisyRecall,
    SelectiveCopying,
)
from tests.problems import generator


@pytest.mark.parametrize("vocab, length", [(16, 128), (4, 4), (2, 4), (64, 32)])
def test_recall_asks_at_each_key_that_came_before(vocab, length):
    task = InContextRecall(vocab, length)
    tokens, targets = task.batch(generator())
    for text, wanted in zip(tokens.tolist(), targets.tolist()):
        keys = text[::2]
        assert max(keys) < vocab // 2 <= min(text[1::2])
        assert all(answer == -100 for answer in wanted[1::2])
        asked = [answer != -100 for answer in wanted[::2]]
        assert asked == [key in keys[:i] for i, key in enumerate(keys)] and asked[-1]


def test_a_share_of_pairs_is_noise_that_is_never_asked():
    task = NoisyRecall(batch_size=1000)
    tokens, targets = task.batch(generator())
    is_noise = (tokens >= 16).unflatten(1, (64, 2))
    assert torch.equal(is_noise[..., 0], is_noise[..., 1]) and not is_noise[:, -1].any()
    share = is_noise[:, :-1, 0].double().mean().item()
    assert abs(share - 0.2 * 62 / 63) < 4 * (0.16 / 63_000) ** 0.5  # one pair is always kept
    assert (targets.unflatten(1, (64, 2))[is_noise] == -100).all()
    assert tokens[tokens >= 16].unique().tolist() == list(range(16, 32))


def test_much_noise_leaves_a_question():
    _, targets = NoisyRecall(length=4, noise=0.99, noise_vocab=16).batch(generator())
    assert (targets[:, 2] >= 8).all() and (targets[:, [0, 1, 3]] == -100).all()


def test_fuzzy_motifs_have_one_to_three_different_tokens():
    task = FuzzyRecall(batch_size=300)
    tokens, targets = task.batch(generator())
    sizes, kinds = set(), set()
    for text in tokens.tolist():
        runs = [[text[0]]]
        for before, token in zip(text, text[1:]):
            runs.append([]) if (token >= 8) != (before >= 8) else None
            runs[-1].append(token)
        assert all(len(set(run)) == len(run) <= 3 for run in runs)
        keys = [tuple(run) for run in runs[:-1:2]]
        sizes |= {(len(key), len(value)) for key, value in zip(keys, runs[1:-1:2])}
        kinds.add(len(set(keys)))
    assert sizes == {(k, v) for k in (1, 2, 3) for v in (1, 2, 3)} and max(kinds) == 8
    assert (tokens[:, 0] < 8).all() and targets[targets >= 0].min() == 8


def test_fuzzy_answers_are_the_next_tokens():
    tokens, targets = FuzzyRecall().batch(generator())
    asked = targets[:, :-1] >= 0
    assert torch.equal(targets[:, :-1][asked], tokens[:, 1:][asked])


def test_copying_keeps_the_order_of_symbols_at_random_places():
    task = SelectiveCopying(vocab=6, length=30, copies=5, batch_size=2000)
    tokens, targets = task.batch(generator())
    assert (tokens[:, 24] == 5).all() and (tokens[:, 25:] == 4).all()
    assert (targets[:, :25] == -100).all()
    is_symbol = tokens[:, :24] < 4
    assert torch.equal(tokens[:, :24][is_symbol].view(-1, 5), targets[:, 25:])
    shares = is_symbol.double().mean(0)
    assert (shares - 5 / 24).abs().max() < 5 * (5 / 24 * 19 / 24 / 2000) ** 0.5


class LastToken(nn.Module):
    """A model whose output is the sum of all tokens read, embedded."""

    def __init__(self, vocab):
        super().__init__()
        self.embed = nn.Embedding(vocab, vocab)

    def forward(self, tokens, state=None):
        return self.embed(tokens).cumsum(1), state


def test_compression_passes_through_the_last_output():
    task = Compression(vocab=5, length=6, code=12)
    model = task.new_model(LastToken)
    tokens, targets = task.batch(generator())
    assert torch.equal(tokens[:, :-1], targets[:, :-1])
    assert (tokens[:, -1] == 4).all() and (targets[:, -1] == -100).all()
    logits, state = model(tokens)
    assert logits.shape == (*tokens.shape, 5) and state is None
    turned = torch.cat([tokens[:, :-1].flip(1), tokens[:, -1:]], dim=1)  # the same sum
    assert torch.allclose(model(turned)[0], logits, atol=1e-5)
    assert not torch.allclose(logits[:, 0], logits[:, 1])  # places differ
    assert model(tokens[:, -3:])[0].shape[1] == 3


def test_memorised_values_are_the_same_in_all_texts_of_a_seed():
    def known(task, split):
        tokens, targets = task.batch(generator(), split)
        assert (tokens[:, 1::2] == 10).all() and (targets[:, ::2] == -100).all()
        return set(zip(tokens[:, ::2].flatten().tolist(), targets[:, 1::2].flatten().tolist()))

    task, other = Memorisation(vocab=11), Memorisation(vocab=11, seed=1)
    pairs = known(task, "train")
    assert pairs == known(task, "query") == known(Memorisation(vocab=11), "train")
    assert sorted(key for key, _ in pairs) == [0, 1, 2, 3, 4]
    assert sorted(value for _, value in pairs) == [5, 6, 7, 8, 9]
    assert pairs != known(other, "train")


REFUSED = {
    "vocab - noise_vocab is an even number from 2": lambda: InContextRecall(vocab=7),
    "T is an even number from 4, but got 5": lambda: InContextRecall(length=5),
    "noise and noise_vocab are both 0, or": lambda: InContextRecall(noise=0.5),
    "a share under 1 and a number of tokens, but got 1.0": lambda: NoisyRecall(noise=1.0),
    "a number of tokens, but got 'a' and 0": lambda: InContextRecall(noise="a"),
    "a number of tokens, but got 0.2 and 2.0": lambda: NoisyRecall(noise_vocab=2.0),
    "a seed is a whole number from 0 .* but got 'a'": lambda: Memorisation(seed="a"),
    "both 0, or a share .* got 0.0 and -2": lambda: InContextRecall(noise_vocab=-2),
    "vocab is an even number from 2": lambda: FuzzyRecall(vocab=9),
    "at most vocab / 2 = 2 tokens, but got 3": lambda: FuzzyRecall(vocab=4),
    "at most 1,000,000 motifs, but vocab=64 and longest=5": lambda: FuzzyRecall(64, longest=5),
    "there are 4 keys, but got 8": lambda: FuzzyRecall(vocab=4, longest=2),
    "T is from 54, so that one of 8 keys": lambda: FuzzyRecall(length=53),
    r"T is from 2 x copies \+ 1 = 33 tokens, but": lambda: SelectiveCopying(length=32),
    "a symbol, the blank and copy at least, but got 2": lambda: SelectiveCopying(vocab=2),
    "vocab is from 2 to code = 128, but got 200": lambda: Compression(vocab=200),
    "one symbol and compress at least, but got 1": lambda: Compression(length=1),
    "a key, a value and a blank at least, but": lambda: Memorisation(vocab=2),
    "T is an even number from 2, but got 3": lambda: Memorisation(length=3),
}


@pytest.mark.parametrize("message", REFUSED)
def test_mistakes_are_said(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
