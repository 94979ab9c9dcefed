"""Right answers pass, and every wrong one loses the check that names its fault.

``pytest -s`` shows the tables of wrong answers and checks; ``python -m tests.homework.benchmark``
the whole of them, with the slow checks too.
"""

import pytest

from nested.homework.slots import SLOTS
from tests.homework.mutants import MUTANTS, draw_row, look, right_answer, write

RACES = {"it earns its place", "it transfers to a deeper net"}  # .ci/run grades these in full
SLOW = {
    *RACES,
    "briefly meta-trained it improves",
    "it can be learned",
    "it keeps one state, not K",
}


@pytest.mark.parametrize("slot", SLOTS)
def test_the_right_answer_passes(slot):
    names = [check.name for check in SLOTS[slot].checks if check.name not in RACES]
    verdicts = look(right_answer(slot), slot, names)
    assert all(v.passed for v in verdicts.values()), verdicts


@pytest.mark.parametrize("slot", SLOTS)
def test_every_wrong_answer_fails_the_check_that_names_its_fault(slot, tmp_path):
    missed, mutants = [], [mutant for mutant in MUTANTS if mutant.slot == slot]
    for mutant in mutants:
        names = [c.name for c in SLOTS[slot].checks if c.name not in SLOW or c.name == mutant.check]
        verdicts = look(write(mutant, tmp_path), slot, names)
        print(draw_row(mutant, verdicts))
        verdict = verdicts[mutant.check]
        if verdict.passed or not (verdict.hint or "Error" in verdict.measured):
            missed.append((mutant.fault, verdict))
    assert not missed
    assert len({mutant.fault for mutant in mutants}) >= 4
