"""Texts that state facts and ask for them later, so that remembering is learned.

Source: passkey retrieval, Mohtashami and Jaggi 2023 (arXiv 2305.16300), with many keys a text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

NAMES = (
    "amber anchor apple arrow badger basil beacon bear bell birch bramble bridge brook button "
    "candle canyon castle cedar cherry cliff clover cloud comet copper coral crimson crow crown "
    "dagger dragon eagle elm ember falcon feather fern ferry field forest fountain fox garden "
    "gate ginger glacier harbour hare harp hawk hazel heron hill honey island ivory ivy jackal "
    "jasmine juniper kettle lake lantern lark lemon lily linen lion lizard lotus maple marble "
    "meadow mill mirror mole moon needle oak olive opal orchard otter owl pearl pepper pine "
    "plum pony quartz rabbit raven reed ribbon river robin rose ruby saddle sail salmon seal "
    "shadow shepherd silver sparrow spider star stone swan thistle thunder tiger tower tulip "
    "turtle valley velvet violet walnut willow wolf"
).split()
STATED, ASKED = "The code of {} is {}.\n", "The code of {} is"
LONGEST_FACT = max(len(STATED.format(name, "0000")) for name in NAMES)
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


def draw_facts(count: int, generator: Generator) -> list[tuple[str, str]]:
    """Draw ``count`` facts with different names: (name, code of four digits). Raises ``ValueError``
    for more facts than there are names."""
    if not 1 <= count <= len(NAMES):
        raise ValueError(f"a text states 1 to {len(NAMES)} facts, but got {count}")
    drawn = torch.randperm(len(NAMES), generator=generator)[:count].tolist()
    codes = torch.randint(10_000, (count,), generator=generator).tolist()
    return [(NAMES[i], f"{code:04d}") for i, code in zip(drawn, codes)]


def stated(
    facts: list[tuple[str, str]],
    size: int,
    generator: Generator,
    others: Sequence[str] = FILLERS,
) -> str:
    """State ``facts`` between sentences of ``others``, in a text of about ``size`` bytes."""
    lines_of_facts = [STATED.format(name, code) for name, code in facts]
    left, lines = size - sum(map(len, lines_of_facts)), []
    while left > 0:
        lines.append(others[int(torch.randint(len(others), (1,), generator=generator))])
        left -= len(lines[-1])
    places = torch.randint(len(lines) + 1, (len(lines_of_facts),), generator=generator)
    for place, line in sorted(zip(places.tolist(), lines_of_facts), reverse=True):
        lines.insert(place, line)
    return "".join(lines)


def fact_text(
    longest: int, generator: Generator, others: Sequence[str] = FILLERS
) -> list[tuple[str, bool]]:
    """Write a text that states facts between sentences drawn from ``others``, and then asks for
    each, in another order.

    It has at most ``longest`` bytes, unless one fact needs more. All numbers of facts that fit are
    drawn equally often on a logarithmic scale. Returns the parts of the text, in order, and whether
    each is an *answer*: the code of a fact, to the end of its line. The words before an answer ask
    for it.
    """
    count, chance = torch.rand(2, generator=generator).tolist()
    most = max(1, longest // (2 * LONGEST_FACT))
    facts = draw_facts(int((most + 1) ** count), generator)
    needed = sum(len(STATED.format(*fact)) for fact in facts)
    room = max(0, longest - 2 * needed - max(map(len, others)))
    parts = [(stated(facts, needed + int(chance * room), generator, others), False)]
    for i in torch.randperm(len(facts), generator=generator).tolist():
        name, code = facts[i]
        parts += [(ASKED.format(name), False), (f" {code}.\n", True)]
    return parts


def fillers(count: int, size: int, generator: Generator) -> list[str]:
    """Draw ``count`` texts of at least ``size`` bytes from a few sentences without facts."""
    lines = size // min(map(len, FILLERS)) + 1
    chosen = torch.randint(len(FILLERS), (count, lines), generator=generator).tolist()
    return ["".join(FILLERS[line] for line in row) for row in chosen]
