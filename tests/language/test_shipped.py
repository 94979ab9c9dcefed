"""The model that ships: small, it recalls what it was told, and a memory outlives the program."""

import re
import subprocess
import sys

import pytest
import torch

from nested.language import load
from nested.language.checkpoint import SHIPPED
from nested.language.recall import answers, read_texts, recall_facts
from nested.memory import pick
from nested.tasks.facts import ASKED, draw_facts, stated
from tests.problems import generator

FACTS, SIZE = 20, 2000


@pytest.fixture(scope="module")
def nano():
    return load()


def test_it_is_small_and_has_a_card():
    assert (SHIPPED / "nano.pt").stat().st_size <= 3_000_000
    assert "## How it was made" in (SHIPPED / "README.md").read_text()


def test_live_memories_recall_facts_and_frozen_ones_guess(nano):
    ways = ("live", "frozen", "nothing")
    runs = [recall_facts(*nano, FACTS, SIZE, generator(seed), ways=ways) for seed in range(3)]
    assert sum(run["live"] for run in runs) / 3 >= 0.9
    assert max(run[way] for run in runs for way in ways[1:]) <= 0.05  # 20 guesses


def test_facts_outlive_the_program_bit_for_bit(nano, tmp_path):
    """Told, saved and asked in a chat, and asked again in one of a new program."""
    facts = draw_facts(FACTS, generator(5))
    text = stated(facts, SIZE, generator(6)).replace("\n", " ")
    asks = [f"/ask {ASKED.format(name)}" for name, _ in facts]
    first = [f"/remember {text}", "/save m.pt", *(x for ask in asks for x in (ask, "/load m.pt"))]
    second = [x for ask in asks for x in ("/load m.pt", ask)]

    def answers_to(lines):
        command = [sys.executable, "-m", "nested.language", "chat"]
        words = "\n".join([*lines, "/quit"])
        done = subprocess.run(command, input=words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return re.findall(r"The code of \w+ is.*", done.stdout)

    before, after = answers_to(first), answers_to(second)
    assert before == after and len(before) == FACTS
    right = sum(f"{ASKED.format(name)} {code}" in before[i] for i, (name, code) in enumerate(facts))
    assert right >= 0.9 * FACTS


def test_a_chat_imports_nothing_that_is_slow_and_not_needed():
    slow = "matplotlib", "torch.distributed.fsdp", "torch.distributed.checkpoint", "fastapi"
    code = f"import nested.language.commands, sys; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unknown_names_are_recalled_too(nano):
    model, coder = nano
    told = "The code of zorblax is 7315.\nThe code of quimby is 2048.\n"
    state = pick(read_texts(model, coder, [told]), [0, 0])
    asked = [ASKED.format(name) for name in ("zorblax", "quimby")]
    assert answers(model, coder, state, asked, 5) == [" 7315", " 2048"]


def test_it_gives_chances(nano):
    model, _ = nano
    assert torch.isfinite(model(torch.randint(256, (1, 300), generator=generator()))[0]).all()
