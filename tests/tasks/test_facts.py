"""Texts of facts: each fact is stated once, and asked for once after that."""

import re
from collections import Counter

import pytest

from nested.tasks.facts import draw_facts, fact_text
from tests.problems import generator

LINE = re.compile(r"The code of (\w+) is (\d{4})\.\n")


def test_a_text_states_each_fact_and_then_asks_for_it():
    source = generator()
    for _ in range(50):
        (told, is_answer), *rest = fact_text(20, 2000, source)
        facts = LINE.findall(told)
        asked = [parts[1][0].strip() for parts in zip(rest[::3], rest[1::3])]
        words = "".join(text for text, _ in rest)
        assert not is_answer and [a for _, a in rest] == [False, True, False] * len(facts)
        assert sorted(LINE.findall(words)) == sorted(facts) and len(set(facts)) == len(facts)
        assert asked == [code for _, code in LINE.findall(words)]


def test_few_and_many_facts_short_and_long_texts_are_drawn():
    source, counts, sizes = generator(), Counter(), []
    for _ in range(2000):
        told = fact_text(16, 4000, source)[0][0]
        counts[len(LINE.findall(told)).bit_length()] += 1
        sizes.append(len(told))
    assert set(counts) == {1, 2, 3, 4, 5}
    for length in (1, 2, 3, 4):  # 1, 2 to 3, 4 to 7, 8 to 15
        assert 350 < counts[length] < 650
    assert min(sizes) < 35 and 3500 < max(sizes) < 4100
    assert fact_text(3, 1, source)[0][0].count("\n") <= 3  # no room: the facts alone


def test_more_facts_than_names_are_refused():
    with pytest.raises(ValueError, match="a text states 1 to .* facts, but got 1000"):
        draw_facts(1000, generator())
