"""A new memory is two files: its own, and one line in ``MIXERS``."""

import io

import pytest
import torch

from nested.memory.sequence import SequenceMemory
from nested.models import Hope, ModelConfig, describe
from nested.models.mixers import MIXERS, Mixer
from tests.problems import generator


class RunningSum(SequenceMemory):
    def begin(self, batch_size):
        return {"sum": torch.zeros(batch_size, 1, self.dim)}

    def read(self, x, memory, position):
        sums = memory["sum"] + x.cumsum(dim=1)
        return sums, {"sum": sums[:, -1:]}


class SumAtChunkEnds(RunningSum):
    def clocks(self):
        return {"sum of chunks": 4}


@pytest.fixture
def register(monkeypatch):
    def build(memory):
        monkeypatch.setitem(MIXERS, "sum", Mixer(lambda config: memory(config.dim)))
        return Hope(ModelConfig(11, 8, 2, 2, "sum", (2, 4), 4))

    return build


def drawn(model, **settings):
    file = io.StringIO()
    describe(model, file, **settings)
    return file.getvalue()


def test_a_memory_registered_in_one_line_runs_in_hope(register):
    model, tokens = register(RunningSum), torch.randint(11, (2, 9), generator=generator())
    whole, _ = model(tokens)
    first, state = model(tokens[:, :4])
    assert torch.allclose(whole, torch.cat([first, model(tokens[:, 4:], state)[0]], 1), atol=1e-5)
    whole.sum().backward()


def test_a_memory_that_writes_no_description_is_drawn_all_the_same(register):
    lines = drawn(register(RunningSum)).splitlines()
    (row,) = (
        line for line in lines if line.startswith("block 2 mixer, RunningSum  ") and "sees" in line
    )
    assert row.split()[4:6] == ["8", "0"]  # numbers a sample, parameters
    assert "moves at every token; sees keys and values of tokens" in row


def test_its_clock_is_drawn_and_short_texts_are_noticed(register):
    text = drawn(register(SumAtChunkEnds), text_length=4)
    assert "moves every 4 tokens" in text and "...|...|" in text
    assert "block 1 mixer, sum of chunks (every 4 tokens)" in text


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_rows_of_a_memory_are_those_of_its_clocks(mixer):
    block = Hope(ModelConfig(11, 8, 1, 2, mixer, (2, 4), 3)).blocks[0]
    for memory in (block.mixer, block.continuum):
        if isinstance(memory, SequenceMemory):
            rows = {row.name: row.period for row in memory.describe()}
            assert rows == memory.clocks()
