"""describe: nothing is left out, and what is drawn is what the clocks say."""

import io

import pytest
import torch

from nested.levels.clock import Clock
from nested.memory import ContinuumMemory, SelfModifyingTitans
from nested.memory.sequence import SequenceMemory
from nested.models import Hope, ModelConfig, Transformer, describe
from nested.models.describe import drawn, levels
from nested.models.mixers import MIXERS


def told(model):
    file = io.StringIO()
    describe(model, file)
    return file.getvalue()


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_level_is_listed_with_its_clock(mixer):
    model = Hope(ModelConfig(64, 16, 3, 2, mixer, (2, 6, 12), 5))
    rows = levels(model)
    assert sum("level" in row.name for row in rows) == 9
    assert [row.period for row in rows if "level" in row.name] == 3 * [2, 6, 12]
    mixers = [row for row in rows if " mixer" in row.name]
    assert [row.period for row in mixers] == (3 * [1, 5] if mixer == "selfmod" else 3 * [1])
    memories = [m for m in model.modules() if isinstance(m, SequenceMemory)]
    inner = sum(p.numel() for memory in set(memories) for p in memory.parameters(recurse=True))
    assert inner > 0 and rows[-1].parameters == sum(p.numel() for p in model.parameters())
    text = told(model)
    assert all(row.name in text and f"{row.parameters:,}" in text for row in rows)


def test_the_numbers_held_are_those_of_the_state():
    model = Hope(ModelConfig(64, 16, 1, 2, "titans", (2, 4), 5))
    rows = {row.name: row for row in levels(model)}
    assert rows["block 1 mixer, TitansMemory"].state == f"{2 * 3 * 16 * 8:,}"  # two heads
    assert rows["block 1 convolution"].state == "48"
    assert rows["block 1 continuum, level 2"].state == f"{2 * 2 * 16 * 16:,}"
    parts = sum(row.parameters for row in rows.values()) - rows["weights"].parameters
    block = model.blocks[0]
    assert parts == sum(p.numel() for n in block.parts for p in getattr(block, n).parameters())


def test_a_memory_that_is_read_at_the_start_moves_by_chunks_as_its_rules_do():
    model = Hope(ModelConfig(64, 16, 1, 2, "selfmod", (2, 4), 5))
    model.blocks[0].mixer = SelfModifyingTitans(16, chunk=5, reads="start")
    assert [row.period for row in levels(model) if " mixer" in row.name] == [5, 5]


def test_independent_levels_all_see_the_input():
    model = Hope(ModelConfig(64, 16, 1, 2, "linear", (2, 4), 5))
    model.blocks[0].continuum = ContinuumMemory(16, (2, 4), "independent")
    rows = [row for row in levels(model) if "level" in row.name]
    assert [row.sees for row in rows] == 2 * ["keys and values of its input"]
    (between,) = [row for row in levels(model) if "between" in row.name]
    assert between.parameters == 2 * 16


@pytest.mark.parametrize("period", [1, 3, 16, 64, 100])
def test_a_sign_stands_where_the_clock_is_due(period):
    line = drawn(period, span=100, columns=100)
    assert [sign == "|" for sign in line] == [Clock(period).due(t) for t in range(1, 101)]


def test_a_transformer_has_one_growing_level_a_block_and_goes_to_the_screen(capsys):
    torch.manual_seed(0)
    describe(Transformer(ModelConfig(64, 16, 2, 2)))
    text = capsys.readouterr().out
    assert text.count("32 a token") == 2 and "moves after every batch" in text
