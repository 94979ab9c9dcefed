"""Right answers pass, and every wrong one loses the check that names its fault.

``python -m tests.homework.benchmark`` shows the table of wrong answers and all checks.
"""

import pytest

from nested.homework.grade import grade
from nested.homework.slots import SLOTS
from tests.homework.mutants import ANSWERS, MUTANTS, look, write


@pytest.mark.parametrize("slot", SLOTS)
def test_the_right_answer_gets_all_points(slot):
    (report,) = grade(ANSWERS, only=[slot]).slots
    assert report.is_full and report.points == report.out_of, report


@pytest.mark.parametrize("slot", SLOTS)
def test_every_wrong_answer_fails_the_check_that_names_its_fault(slot, tmp_path):
    missed, mutants = [], [mutant for mutant in MUTANTS if mutant.slot == slot]
    for mutant in mutants:
        verdict = look(write(mutant, tmp_path), slot, [mutant.check])[mutant.check]
        if verdict.passed or not (verdict.hint or "Error" in verdict.measured):
            missed.append((mutant.fault, verdict))
    assert not missed
    assert len({mutant.fault for mutant in mutants}) >= 4
