"""Texts of facts: each fact is stated once, and asked for once after that."""

import re

import pytest

from nested.tasks.facts import draw_facts, fact_text
from tests.problems import generator

LINE = re.compile(r"The code of (\w+) is (\d{4})\.\n")


def test_a_text_states_each_fact_and_then_asks_for_it():
    source = generator()
    for _ in range(50):
        (told, is_answer), *rest = fact_text(2000, source)
        facts = LINE.findall(told)
        asked = [answer.strip(" .\n") for answer, _ in rest[1::2]]
        words = "".join(text for text, _ in rest)
        assert not is_answer and [a for _, a in rest] == [False, True] * len(facts)
        assert sorted(LINE.findall(words)) == sorted(facts) and len(set(facts)) == len(facts)
        assert asked == [code for _, code in LINE.findall(words)]


def test_few_and_many_facts_short_and_long_texts_are_drawn():
    source, counts, sizes = generator(), [], []
    for _ in range(400):
        parts = fact_text(1000, source)
        counts.append(sum(is_answer for _, is_answer in parts))
        sizes.append(sum(len(text) for text, _ in parts))
    assert min(counts) == 1 and max(counts) > 12 and 2 < sorted(counts)[200] < 6
    assert max(sizes) <= 1000 and sizes and min(sizes) < 150
    parts = fact_text(1, source)  # no room: one fact alone
    assert sum(is_answer for _, is_answer in parts) == 1 and parts[0][0].count("\n") == 1


def test_more_facts_than_names_are_refused():
    with pytest.raises(ValueError, match="a text states 1 to .* facts, but got 1000"):
        draw_facts(1000, generator())
