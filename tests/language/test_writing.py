"""Generating: whole characters, stop strings never shown in part, and a state that goes on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from nested.language.coder import ByteCoder
from nested.language.writing import RECORDED, Sampling, generate
from nested.models import Hope, ModelConfig, Transformer
from nested.support.stream import Stream
from tests.problems import generator


def build(kind=Hope, mixer="linear"):
    torch.manual_seed(0)
    return kind(ModelConfig(259, 16, 2, 2, mixer, (4, 8), 4, ngrams=(2, 3), recall=(4,))).eval()


class Plays:
    """A model that says ``text`` whatever it reads, and counts the tokens that it has read."""

    def __init__(self, text):
        self.text, self.parameters = text, lambda: iter([torch.zeros(1)])

    def __call__(self, tokens, state=None):
        at = 0 if state is None else state
        at += tokens.shape[1]
        logits = torch.zeros(1, tokens.shape[1], 259)
        following = self.text[at - 1 : at] or b"\0"
        logits[0, -1, 256 if at > len(self.text) else following[0]] = 99.0
        return logits, at


def play(text, tokens=RECORDED, **settings):
    return generate(Plays(text), ByteCoder(), b"x", tokens, temperature=0, **settings)


@given(some.binary(max_size=40), some.lists(some.integers(1, 7), min_size=1))
def test_any_cut_shows_the_text_that_python_decodes(data, sizes):
    stream, shown, at, i = Stream(), "", 0, 0
    while at < len(data):
        shown += stream.push(data[at : at + sizes[i % len(sizes)]])
        at, i = at + sizes[i % len(sizes)], i + 1
    assert shown + stream.end() == data.decode("utf-8", "replace")


def test_a_character_of_four_bytes_comes_whole_and_a_bad_byte_does_not_stall():
    stream = Stream()
    assert [stream.push(bytes([b])) for b in "🙂!".encode()] == ["", "", "", "🙂", "!"]
    assert stream.push(b"\xe2\x82") == "" and stream.push(b"A") == "\ufffdA"
    assert stream.push(b"\xff") == "\ufffd"


@given(
    some.text("abc", max_size=30),
    some.lists(some.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_stop_string_is_never_shown_in_part(text, stop):
    stream, shown = Stream(stop), ""
    for letter in text:
        shown += stream.push(letter.encode())
    shown += stream.end()
    places = [text.find(s) for s in stop if s in text]
    # the stop string that is complete first ends the text; what it began with is not shown
    ends = {min(text.find(s) + len(s) for s in stop if s in text)} if places else {len(text)}
    (end,) = ends
    wanted = text[:end]
    cut = min([wanted.find(s) for s in stop if s in wanted] or [len(wanted)])
    assert shown == text[:cut]
    assert stream.is_stopped == bool(places)


def test_writing_ends_for_one_of_three_reasons():
    writing = play(b"To be, or not to be.\n\nHAMLET:", stop=["\n\n"])
    assert "".join(writing) == "To be, or not to be." and writing.reason == "stop"
    writing = play(b"abcdef", tokens=4)
    assert "".join(writing) == "abcd" == writing.text and writing.reason == "length"
    writing = play(b"abc")
    assert "".join(writing) == "abc" and writing.reason == "stop"


def test_what_is_held_back_comes_when_no_stop_string_followed():
    writing = play(b"ab\n", tokens=3, stop=["\n\n"])
    assert list(writing) == ["a", "b", "\n"] and writing.reason == "length"


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod", "attention"])
def test_the_state_goes_on_where_the_text_ends(mixer):
    model, coder = build(mixer=mixer), ByteCoder()
    first = generate(model, coder, "Once", 7, generator=generator(2))  # without an end
    text = "".join(first)
    whole = model(torch.tensor([coder.encode(b"Once") + first.tokens]))[1]
    more = torch.tensor([[104, 105]])
    assert torch.allclose(model(more, first.state)[0], model(more, whole)[0], atol=1e-5)
    assert len(first.tokens) == 7 and first.text == text


def test_the_same_generator_writes_the_same_text_and_greed_needs_none():
    model, coder = build(Transformer), ByteCoder()
    texts = [
        "".join(generate(model, coder, b"", 20, top_k=40, top_p=0.9, generator=generator(s)))
        for s in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
    greedy = ["".join(generate(model, coder, "a", 20, temperature=0)) for _ in range(2)]
    assert greedy[0] == greedy[1]


def test_a_long_text_is_that_of_the_model_token_by_token():
    model, length = build(), RECORDED + 20
    written = generate(model, ByteCoder(), "ab", length, temperature=0)
    "".join(written)
    tokens, (_, state) = [*b"ab"], model(torch.tensor([[*b"a"]]))
    for _ in range(length):
        logits, state = model(torch.tensor([tokens[-1:]]), state)
        tokens.append(int(logits[0, -1].argmax()))
    assert written.tokens == tokens[2:] and len(written.tokens) == length


def test_only_the_most_likely_tokens_are_drawn():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = {
        name: {Sampling(**settings).draw(logits, [], generator(s)) for s in range(200)}
        for name, settings in {
            "all": {},
            "k": {"top_k": 2},
            "p": {"top_p": 0.7},
            "k and p": {"top_k": 3, "top_p": 0.99},
            "cold": {"temperature": 0.01},
            "one": {"top_p": 1e-9},
        }.items()
    }
    assert draws == {
        "all": {0, 1, 2, 3},
        "k": {0, 1},
        "p": {0, 1},  # 0.64, then 0.24
        "k and p": {0, 1, 2},
        "cold": {0},
        "one": {0},
    }


def test_draws_have_the_chances_of_the_softmax():
    logits, source = torch.tensor([1.0, 0.0, -1.0]), generator()
    draws = torch.tensor([Sampling(0.5).draw(logits, [], source) for _ in range(4000)])
    shares = torch.bincount(draws, minlength=3) / 4000
    assert torch.allclose(shares, torch.softmax(logits / 0.5, 0), atol=0.03)


def test_a_penalty_makes_written_tokens_less_likely():
    logits = torch.tensor([2.0, 1.9, -1.0])
    assert Sampling(0, penalty=1.2).draw(logits, [0], None) == 1
    assert Sampling(0, penalty=1.2).draw(logits, [], None) == 0
    assert torch.equal(logits, torch.tensor([2.0, 1.9, -1.0]))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"temperature": -1}, "temperature is 0 or more, but got -1"),
        ({"temperature": float("nan")}, "temperature is 0 or more, but got nan"),
        ({"top_k": 0}, "top_k is a whole number from 1, but got 0"),
        ({"top_p": 0.0}, "top_p is over 0 and at most 1, but got 0.0"),
        ({"penalty": 0.5}, "penalty is 1 or more, but got 0.5"),
        ({"stop": "\n"}, "stop is a list of texts"),
        ({"stop": [""]}, "stop is a list of texts"),
        ({"tokens": 0}, "tokens is a whole number from 1, but got 0"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        generate(build(), ByteCoder(), "a", **{"tokens": 1, **settings})


@pytest.mark.parametrize("settings", [{"top_p": 5e-324}, {"temperature": 1e-320}, {"top_k": 1}])
def test_the_smallest_settings_take_the_most_likely_token(settings):
    logits = torch.tensor([0.1, 50.0, 49.9, -3.0])
    assert Sampling(**settings).draw(logits, [], generator()) == 1
