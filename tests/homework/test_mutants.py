"""Right answers pass, and every wrong one loses the check that names its fault.

``python -m tests.homework.benchmark`` shows the table of wrong answers and all checks.
"""

import subprocess
import sys

import pytest

from nested.homework.registry import read_worth
from nested.homework.slots import SLOTS
from tests.homework.mutants import ANSWERS, MUTANTS, look, right_answer, write

RACES = {"it earns its place", "it transfers to a deeper net"}  # right answers run them once


@pytest.mark.parametrize("slot", SLOTS)
def test_the_right_answer_gets_all_points(slot):
    command = [sys.executable, "-m", "nested.homework", "grade", str(ANSWERS), "--only", slot]
    done = subprocess.run(command, capture_output=True, text=True)
    points = read_worth()[slot].points
    assert done.returncode == 0 and f": {points:g}/{points:g} " in done.stdout, done.stdout


@pytest.mark.parametrize("slot", SLOTS)
def test_the_right_answer_passes_where_wrong_ones_are_to_fail(slot):
    names = {mutant.check for mutant in MUTANTS if mutant.slot == slot} - RACES
    verdicts = look(right_answer(slot), slot, list(names))
    assert names and all(v.passed for v in verdicts.values()), verdicts


@pytest.mark.parametrize("slot", SLOTS)
def test_every_wrong_answer_fails_the_check_that_names_its_fault(slot, tmp_path):
    missed, mutants = [], [mutant for mutant in MUTANTS if mutant.slot == slot]
    for mutant in mutants:
        verdict = look(write(mutant, tmp_path), slot, [mutant.check])[mutant.check]
        if verdict.passed or not (verdict.hint or "Error" in verdict.measured):
            missed.append((mutant.fault, verdict))
    assert not missed
    assert len({mutant.fault for mutant in mutants}) >= 4
