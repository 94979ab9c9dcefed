"""Texts that state facts and ask for them later, so that remembering is learned.

Source: passkey retrieval, Mohtashami and Jaggi 2023 (arXiv 2305.16300), with many keys a text.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator

FIRST = (
    "amber ancient blue bold brave bright broken calm clever cold copper crimson dark distant early"
    " empty fair fallen gentle golden grand green grey hidden hollow iron jolly late little lonely"
    " lost lucky merry misty noble old pale proud quick quiet rapid red royal rusty sable secret"
    " silent silver slow small solemn stone strange swift tall timid violet wandering warm white"
    " wild wise young"
).split()
SECOND = (
    "arrow badger beacon bear bell birch bridge brook candle castle cedar cloud comet crow crown"
    " dragon eagle elm ember falcon feather fern field forest fountain fox garden gate harbour hare"
    " harp hawk heron hill island ivy jackal lake lantern lark lion maple meadow mill mirror moon"
    " oak orchard otter owl pearl pine raven reed river rose sail shadow shepherd sparrow star swan"
    " tower valley wolf"
).split()
STATED, ASKED = "The code of the {} is {}.\n", "The code of the {} is"
FILLERS = (
    "The road went on for many miles, and nobody said a word.\n",
    "It rained all night, and in the morning the fields were grey.\n",
    "They sat by the fire and talked about the old days.\n",
    "A cart came down the lane, with two men and a dog behind it.\n",
    "She closed the window, lit a lamp, and went on with her letter.\n",
    "There was bread on the table, some cheese, and a jug of water.\n",
    "He had left the keys at home, as he always did on Mondays.\n",
    "The market was full of people who had come from far away.\n",
)


class Facts(NamedTuple):
    """A text, and (name, code) of each fact that it states."""

    text: str
    facts: list[tuple[str, str]]


def draw_facts(count: int, generator: Generator) -> list[tuple[str, str]]:
    """Draw ``count`` facts with different names: (name, code of four digits). Raises ``ValueError``
    for more facts than there are names."""
    names = len(FIRST) * len(SECOND)
    if not 1 <= count <= names:
        raise ValueError(f"a text states 1 to {names} facts, but got {count}")
    drawn = torch.randperm(names, generator=generator)[:count].tolist()
    codes = torch.randint(10_000, (count,), generator=generator).tolist()
    facts = []
    for i, code in zip(drawn, codes):
        name = f"{FIRST[i % len(FIRST)]} {SECOND[i // len(FIRST)]}"
        facts.append((name, f"{code:04d}"))
    return facts


def stated(facts: list[tuple[str, str]], size: int, generator: Generator) -> str:
    """State ``facts`` between other sentences, in a text of about ``size`` bytes."""
    lines_of_facts = [STATED.format(name, code) for name, code in facts]
    left, lines = size - sum(map(len, lines_of_facts)), []
    while left > 0:
        lines.append(FILLERS[int(torch.randint(len(FILLERS), (1,), generator=generator))])
        left -= len(lines[-1])
    places = torch.randint(len(lines) + 1, (len(lines_of_facts),), generator=generator)
    for place, line in sorted(zip(places.tolist(), lines_of_facts), reverse=True):
        lines.insert(place, line)
    return "".join(lines)


def fact_text(size: int, generator: Generator) -> Facts:
    """Write a text of about ``size`` bytes that states facts, and states all of them again at its
    end, in another order. The words of a statement also ask for it."""
    count = max(1, int(torch.randint(1, max(2, size // 100), (1,), generator=generator)))
    facts = draw_facts(min(count, 24), generator)
    again = [facts[i] for i in torch.randperm(len(facts), generator=generator).tolist()]
    asked = "".join(STATED.format(name, code) for name, code in again)
    return Facts(stated(facts, size - len(asked), generator) + asked, facts)


def fillers(count: int, size: int, generator: Generator) -> list[str]:
    """Draw ``count`` texts of at least ``size`` bytes from a few sentences without facts."""
    lines = size // min(map(len, FILLERS)) + 1
    chosen = torch.randint(len(FILLERS), (count, lines), generator=generator).tolist()
    return ["".join(FILLERS[line] for line in row) for row in chosen]
