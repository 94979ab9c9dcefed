"""Parts of a block of Hope: its keys, the dense net at its end, and a first matrix."""

import math

import pytest
import torch

from nested.memory import LinearMemory
from nested.models import Hope, ModelConfig, Transformer, decay_groups
from nested.models.attention import Attention
from nested.models.mixers import MIXERS
from nested.models.ngrams import CODE, NGrams, random_words
from tests.problems import generator

SIZES = {"vocab": 11, "dim": 8, "layers": 2, "heads": 2, "mixer": "linear", "periods": (4,)}


def test_without_hidden_units_a_block_has_no_net():
    names = {name for name, _ in Hope(ModelConfig(**SIZES)).named_parameters()}
    assert not any("net" in name for name in names)
    assert Transformer(ModelConfig(**SIZES)).blocks[0].net[0].weight.shape == (32, 8)


def test_a_net_that_gives_zeros_leaves_the_model_bit_for_bit():
    plain = Hope(ModelConfig(**SIZES))
    model = Hope(ModelConfig(**SIZES, hidden=3))
    assert model.blocks[0].net[0].weight.shape == (24, 8)
    model.load_state_dict(plain.state_dict(), strict=False)
    for block in model.blocks:
        torch.nn.init.zeros_(block.net[-1].weight)
    tokens = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(tokens)[0], plain(tokens)[0])


def test_a_text_in_parts_is_the_whole_text_with_nets():
    torch.manual_seed(0)
    model = Hope(ModelConfig(**SIZES, hidden=2)).double()
    tokens = torch.randint(11, (2, 9))
    whole, _ = model(tokens)
    first, state = model(tokens[:, :5])
    second, _ = model(tokens[:, 5:], state)
    assert (torch.cat([first, second], dim=1) - whole).abs().max() < 1e-9


@pytest.mark.parametrize("hidden", [-1, 2.5, True])
def test_other_numbers_of_hidden_units_are_refused(hidden):
    with pytest.raises(ValueError, match="hidden is a whole number from 0, but got"):
        ModelConfig(**SIZES, hidden=hidden)


def test_the_first_matrix_of_the_delta_rule_is_learned_and_a_sum_starts_at_zero():
    delta, total = LinearMemory(4), LinearMemory(4, "dot")
    assert not delta.matrix.any() and not hasattr(total, "matrix")
    with torch.no_grad():
        delta.matrix += 1
    assert delta.init(3)["memory"]["matrix"].eq(1).all()
    model = Hope(ModelConfig(**SIZES))
    _, kept = decay_groups(model, 0.1)
    assert any(p is model.blocks[0].mixer.matrix for p in kept["params"])


@pytest.mark.parametrize(
    "mixer, decayed",
    [
        ("linear", "query key value choose_decay forgetting"),
        ("titans", "query key value choose_decay momentum forgetting"),
        ("selfmod", "query skip_key skip_value decay_gates forgetting"),
        ("attention", "project out"),
    ],
)
def test_maps_and_gates_of_forgetting_decay_and_rates_and_first_weights_do_not(mixer, decayed):
    """Of a mixer; gates have a bias, which decay pulls to 0, where they started."""
    block = Hope(ModelConfig(11, 8, 1, 2, mixer, (2, 4), 4)).blocks[0]
    yes, no = decay_groups(block, 0.1)
    assert (yes["weight_decay"], no["weight_decay"]) == (0.1, 0)
    names = {id(p): name.split(".")[1] for name, p in block.named_parameters() if "mixer." in name}
    ours = {names[id(p)] for p in yes["params"] if id(p) in names}
    others = {names[id(p)] for p in no["params"] if id(p) in names}
    assert ours == set(decayed.split()) and not ours & others
    continuum = [p for name, p in block.named_parameters() if name.startswith("continuum.first")]
    assert all(any(p is q for q in yes["params"]) for p in continuum)


@pytest.mark.parametrize("decay", [-1.0, math.nan, math.inf, "a"])
def test_a_decay_that_makes_no_sense_is_refused(decay):
    with pytest.raises(ValueError, match="weight_decay is a finite number from 0"):
        decay_groups(Hope(ModelConfig(**SIZES)), decay)


@pytest.mark.parametrize("mixer", ["linear", "selfmod"])
def test_queries_start_as_the_keys_of_the_last_write(mixer):
    mixer = Hope(ModelConfig(11, 8, 1, 2, mixer, (2, 4), 4, products=2)).blocks[0].mixer
    keys = (mixer.key if hasattr(mixer, "key") else mixer.skip_key).weight
    assert torch.equal(mixer.query.weight, keys[8:]) and not torch.equal(keys[8:], keys[:8])


@pytest.mark.parametrize("mixer", MIXERS)
def test_queries_start_as_keys_and_half_of_the_keys_see_the_token_before(mixer):
    block = Hope(ModelConfig(11, 8, 1, 2, mixer, (2, 4), 4)).blocks[0]
    x = torch.randn(1, 6, 8, generator=generator())
    keys, _ = block.key_shift(x)
    assert torch.equal(keys[:, 1:, ::2], x[:, :-1, ::2]) and torch.equal(
        keys[..., 1::2], x[..., 1::2]
    )
    if mixer == "attention":
        queries, maps, _ = block.mixer.project.weight.chunk(3)
    else:
        queries = block.mixer.query.weight
        maps = block.mixer.skip_key.weight if mixer == "selfmod" else block.mixer.key.weight
    assert torch.equal(queries, maps)


def test_attention_makes_its_keys_and_nothing_else_from_what_is_given_for_them():
    """Keys W (R x) of vectors R x are the keys (W R) x of x."""
    torch.manual_seed(0)
    attention, x = Attention(8, 2).double(), torch.randn(2, 6, 8, dtype=torch.float64)
    turn = torch.randn(8, 8, dtype=torch.float64)
    given, _ = attention(x, keys=x @ turn.T)
    with torch.no_grad():
        attention.project.weight[8:16] = attention.project.weight[8:16] @ turn
    assert torch.allclose(given, attention(x)[0], atol=1e-12)


def test_equal_n_grams_have_equal_vectors_and_no_others():
    """Against a loop over each n-gram as a text."""
    ngrams = NGrams(6, (2, 3)).double()
    torch.nn.init.normal_(ngrams.out.weight)
    tokens = torch.randint(3, (2, 400), generator=generator())
    y, codes, state = ngrams(tokens)
    assert codes is None and torch.equal(state, tokens[:, -3:] + 1)
    rows = {}
    for text, vectors in zip(tokens.tolist(), y):
        for t in range(2, 400):
            rows.setdefault(tuple(text[t - 2 : t + 1]), []).append(vectors[t])
    assert all(torch.equal(row, same[0]) for same in rows.values() for row in same)
    firsts = torch.stack([same[0] for same in rows.values()])
    assert torch.cdist(firsts, firsts).fill_diagonal_(1).min() > 1e-3 and len(rows) == 27


def test_buckets_are_used_alike():
    """1,000,000 random 3-grams: a bucket gets 244 of them, give or take a standard deviation."""
    ngrams = NGrams(4, (3, 8))
    tokens = torch.randint(256, (1, 1_000_000), generator=generator())
    text = torch.cat([ngrams.init(1), tokens + 1], dim=1)
    hashes = ngrams._hashes(text, tokens.shape[1])
    for i in range(2):
        counts = torch.bincount(hashes[0, :, i] % 4096, minlength=4096).double()
        assert len(counts) == 4096 and counts.std() < 1.1 * counts.mean() ** 0.5


def test_equal_n_grams_have_equal_codes_and_all_others_are_nearly_orthogonal():
    ngrams = NGrams(6, (), (2, 3)).double()
    tokens = torch.randint(3, (2, 400), generator=generator())
    y, codes, _ = ngrams(tokens)
    assert y == 0.0 and codes.shape == (2, 401, 2, CODE)
    rows = {}
    for text, vectors in zip(tokens.tolist(), codes[:, 1:, 1]):  # those of three tokens
        for t in range(2, 400):
            rows.setdefault(tuple(text[t - 2 : t + 1]), []).append(vectors[t])
    assert all(torch.equal(row, same[0]) for same in rows.values() for row in same)
    firsts = torch.stack([same[0] for same in rows.values()])
    cosines = firsts @ firsts.T - torch.eye(27)
    assert cosines.std() < 1.2 / CODE**0.5 and cosines.abs().max() < 5 / CODE**0.5


def test_random_words_are_those_of_splitmix64():
    """Against the authors' C code with seed 0. Codes of saved models depend on these values."""
    words = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert random_words(4).tolist() == words
    ngrams = NGrams(4, (), (2,))
    assert ngrams.factors.tolist() == [word - 2**64 * (word >> 63) | 1 for word in words[:2]]
    assert ngrams.signs.flatten()[:8].tolist() == [1, 1, 1, 1, -1, 1, -1, 1]  # of 0xAF


@pytest.mark.parametrize("wrong", [3, (1,), (2.0,), "ab", None])
def test_sizes_of_n_grams_are_checked(wrong):
    for name in ("ngrams", "recall"):
        with pytest.raises(ValueError, match=f"{name} are numbers from 2 to 64, but got"):
            ModelConfig(**{name: wrong})


def test_keys_of_several_writes_start_as_the_token_alone():
    for products, is_shifted in ((1, True), (2, False)):
        block = Hope(ModelConfig(**SIZES, products=products)).blocks[0]
        x = torch.randn(1, 5, 8, generator=generator())
        keys, _ = block.key_shift(x)
        assert torch.equal(keys[:, :, 1::2], x[:, :, 1::2])
        assert torch.equal(keys[:, 1:, ::2], x[:, :-1, ::2] if is_shifted else x[:, 1:, ::2])
