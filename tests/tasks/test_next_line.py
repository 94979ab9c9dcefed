"""Questions about the next line: the right one is there, once, and follows its text."""

import torch

from nested.tasks.next_line import BEFORE, next_line_questions

TEXTS = [
    "".join(f"In text {name} line {number} says this.\n" for number in range(40)) for name in "ab"
]


def draw(count, seed=0, texts=TEXTS):
    return next_line_questions(texts, count, torch.Generator().manual_seed(seed))


def test_the_right_line_follows_the_text_before_it_and_no_other_does():
    rows = draw(40)
    assert len(rows) == 40 and rows == draw(40) and rows != draw(40, seed=1)
    for row in rows:
        assert len(row["question"]) <= BEFORE and len(set(row["choices"])) == 4
        follows = [any(row["question"] + c in text for text in TEXTS) for c in row["choices"]]
        assert follows == [i == row["answer"] for i in range(4)]


def test_each_place_is_right_as_often_and_short_lines_are_no_choice():
    rows = draw(40, texts=[TEXTS[0] + "HAMLET\n" * 30 + TEXTS[1]])
    assert [sum(row["answer"] == i for row in rows) for i in range(4)] == [10] * 4
    assert not any("HAMLET\n" in row["choices"] for row in rows)


def test_texts_with_too_few_lines_give_no_questions():
    assert draw(3, texts=["one line of text, and no other one\n" * 9]) == []
