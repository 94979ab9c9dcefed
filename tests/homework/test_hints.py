"""Hints unfold one by one, and each slot says how long it takes and how hard it is."""

import re
from dataclasses import replace

import pytest

from nested.homework.__main__ import main
from nested.homework.registry import HINTS, TOML, effort, read_hints, read_worth
from nested.homework.report import FORMATS, as_hints
from nested.homework.slots import SLOTS
from tests.homework.mutants import right_answer
from tests.homework.test_grade import STUBS, sample

SOME = {"hw0": [("it is fast", ["think", "look", "write"]), ("", ["a", "b", "c"])]}


@pytest.mark.parametrize("slot", SLOTS)
def test_every_check_of_every_slot_has_three_hints_from_short_to_long(slot):
    for check in SLOTS[slot].checks:
        fitting = [hints for start, hints in read_hints()[slot] if check.name.startswith(start)]
        assert fitting, check.name
        assert len(fitting[0]) == len(set(fitting[0])) == 3
    for _, hints in read_hints()[slot]:
        for sentence in re.split(r"(?<=[.?!:;]) ", " ".join(hints)):
            assert len(sentence.split()) <= 25, sentence


@pytest.mark.parametrize("slot", SLOTS)
def test_the_file_says_how_long_it_takes_as_homework_toml_does(slot):
    worth = read_worth()[slot]
    assert worth.minutes and worth.difficulty
    minutes, difficulty = worth.effort.split(", d")
    difficulty = difficulty.replace("ifficulty ", "Difficulty: ")
    line = f"Time: {minutes}. {difficulty}. Stuck? Add --hint to the command.\n"
    assert line in (STUBS / SLOTS[slot].file).read_text()


def test_effort_is_said_in_words_as_far_as_it_is_known():
    assert effort(5, 1) == "about 5 minutes, difficulty 1 of 5"
    assert effort(150, 0) == "about 2.5 hours" and effort(0, 3) == "difficulty 3 of 5"
    assert effort(0, 0) == ""


@pytest.mark.parametrize("form", ("text", "markdown", "json"))
def test_reports_say_how_long_a_slot_takes(form):
    submission = sample()
    slots = [replace(slot, effort=effort(5, 1)) for slot in submission.slots]
    text = FORMATS[form]([replace(submission, slots=slots)])
    assert text.count("about 5 minutes, difficulty 1 of 5") == 2
    assert "()" not in FORMATS[form]([submission])


def test_hints_unfold_for_the_first_check_that_was_lost():
    once, twice, often = (as_hints([sample()], SOME, count) for count in (1, 2, 9))
    assert "1. think" in once and "look" not in once and "--hint 2" in once
    assert "1. think" in twice and "2. look" in twice and "--hint 3" in twice
    assert (
        "3. write" in often and "--hint" not in often and "a" not in re.findall(r"\. (\w)\n", often)
    )
    assert "it is fast" in once and "hw1" not in once


def test_a_slot_that_is_not_begun_gets_its_hints_if_it_is_asked_for():
    hints = {**SOME, "hw1": [("x", ["begin", "go on", "end"])]}
    assert "begin" not in as_hints([sample()], hints, 1)
    assert "begin" in as_hints([sample()], hints, 1, asked=["hw1"])
    assert "0 of 0" in as_hints([sample()], SOME, 1, asked=["hw1"]), "a slot without hints"


def test_where_nothing_is_lost_there_is_no_hint():
    whole = replace(sample().slots[0], checks=sample().slots[0].checks[:1])
    assert "nothing to hint at" in as_hints([replace(sample(), slots=[whole])], SOME, 1)


def test_a_student_asks_for_a_hint(tmp_path, capsys):
    text = right_answer("hw0").read_text().replace("lr * buffer", "lr.item() * buffer")
    (tmp_path / SLOTS["hw0"].file).write_text(text)
    flags = ["grade", str(tmp_path), "--only", "hw0"]
    assert main([*flags, "--check", "the hypergradient of the learning rate", "--hint"]) == 1
    out = capsys.readouterr().out
    assert "Hints for hw0, the hypergradient of the learning rate: 1 of 3" in out
    assert read_hints()["hw0"][0][1][0][:40] in out
    assert main([*flags, "--hint", "--format", "json"]) == 1
    assert "goes with the text format" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[hw0]]", "[[hw9]]", "there is no such slot"),
        ('checks = "2 step"', 'checks = "two"', "no check of hw_zero begins with 'two'"),
        ("[[hw0]]", "[[hw0]", "cannot be read"),
    ],
)
def test_wrong_hints_say_what_is_wrong(old, new, message, tmp_path):
    text = HINTS.read_text()
    assert old in text
    (tmp_path / "hints.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_hints(tmp_path / "hints.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("minutes = 5", "minutes = 0", "minutes is a number above 0, but got 0"),
        ("minutes = 5", 'minutes = "five"', "minutes is a number above 0, but got 'five'"),
        ("difficulty = 1", "difficulty = 6", "difficulty goes from 1 to 5, but got 6"),
    ],
)
def test_an_effort_that_makes_no_sense_is_refused(old, new, message, tmp_path):
    text = TOML.read_text()
    assert old in text
    (tmp_path / "homework.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_worth(tmp_path / "homework.toml")
