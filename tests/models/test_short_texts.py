"""Texts that end before a level moves: describe says so, training warns once."""

import io
import warnings

import pytest
import torch

from nested import detached
from nested.memory import ContinuumMemory, SelfModifyingTitans, TitansMemory
from nested.models import Hope, ModelConfig, Transformer, describe
from tests.problems import generator


def hope(mixer="titans", periods=(2, 8, 300)):
    return Hope(ModelConfig(11, 8, 1, 2, mixer, periods, 4))


def told(model, length):
    file = io.StringIO()
    describe(model, file, text_length=length)
    return file.getvalue()


def warned(memory, x, state=None):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            y, _ = memory(x, state)
            assert not found
            y.sum().backward()
    return [str(warning.message) for warning in found]


@pytest.mark.filterwarnings("ignore:texts of")
@pytest.mark.parametrize("mixer", ["titans", "linear", "selfmod", "attention"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 9, 300, 301])
def test_describe_names_just_the_levels_whose_writers_have_no_gradient(mixer, length):
    model = hope(mixer)
    text = told(model, length)
    logits, _ = model(torch.randint(11, (1, length), generator=generator()))
    logits.square().sum().backward()
    for number, level in enumerate(model.blocks[0].continuum.levels, start=1):
        grad = level.key.weight.grad
        is_taught = grad is not None and bool(grad.any())
        assert (f"continuum, level {number} (every" in text) == (not is_taught)
    assert ("its rules (every 4 tokens)" in text) == (mixer == "selfmod" and length <= 4)
    assert ("teach them nothing" in text) == (length <= 300)


def test_describe_says_nothing_without_a_length_or_levels():
    assert "teach" not in told(hope(), None) and "teach" not in told(hope(), 301)
    assert "teach" not in told(Transformer(ModelConfig(11, 8, 1, 2)), 1)
    with pytest.raises(ValueError, match="text_length is a whole number from 1, but got 0"):
        told(hope(), 0)


def test_training_warns_once_and_says_what_to_do():
    model, x = hope(), torch.randint(11, (1, 9), generator=generator())
    (message,) = warned(model, x)
    assert "texts of 9 tokens" in message and "level 3 (every 300 tokens)" in message
    assert "level 2" not in message and "more than 300 tokens" in message
    assert not warned(model, x) and not warned(model, x[:, :2])
    assert warned(hope(), x)  # another model


@pytest.mark.parametrize(
    "memory, length, level",
    [
        (ContinuumMemory(8, (2, 8)), 8, "level 2 (every 8 tokens)"),
        (ContinuumMemory(8, (2, 8), "nested"), 8, "level 2 (every 8 tokens)"),
        (SelfModifyingTitans(8, chunk=4), 4, "its rules (every 4 tokens)"),
        (SelfModifyingTitans(8, chunk=4, reads="start"), 4, "memory (every 4 tokens)"),
    ],
)
def test_memories_alone_warn_too(memory, length, level):
    assert not warned(memory, torch.randn(1, length + 1, 8))
    (message,) = warned(memory, torch.randn(1, length, 8))
    assert level in message


def test_windows_that_carry_their_state_on_are_one_text():
    model, x = hope(), torch.randint(11, (1, 9), generator=generator())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            state = None
            for _ in range(2):
                y, state = model(x, state)
                y.sum().backward()
                state = detached(state)


def test_what_trains_nothing_or_goes_on_warns_of_nothing():
    model, x = hope(), torch.randint(11, (1, 9), generator=generator())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            model(x)
        for _ in range(3):
            model(x)
        y, _ = model(x, model.init(1))  # a window of a longer text
        y.sum().backward()
        for _ in range(2):
            TitansMemory(8)(torch.randn(1, 1, 8))[0].sum().backward()
        model = hope()
        for _ in range(2):
            model(torch.randint(11, (1, 301)))[0].sum().backward()
