"""Right answers pass, and every wrong one loses the check that names its fault."""

import pytest

from nested.homework.slots import SLOTS
from tests.homework.mutants import MUTANTS, look, right_answer, write

SLOW = {"it earns its place", "it transfers to a deeper net"}  # CI grades these in full


def cheap_checks(slot):
    return [check.name for check in SLOTS[slot].checks if check.name not in SLOW]


@pytest.mark.parametrize("slot", SLOTS)
def test_the_right_answer_passes(slot):
    verdicts = look(right_answer(slot), slot, cheap_checks(slot))
    assert all(v.passed for v in verdicts.values()), verdicts


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.slot} {m.fault}")
def test_a_wrong_answer_fails_the_check_that_names_its_fault(mutant, tmp_path):
    verdict = look(write(mutant, tmp_path), mutant.slot, [mutant.check])[mutant.check]
    assert not verdict.passed, verdict
    assert verdict.hint or "Error" in verdict.measured


@pytest.mark.parametrize("slot", SLOTS)
def test_every_slot_has_wrong_answers_of_at_least_four_kinds(slot):
    assert len({mutant.fault for mutant in MUTANTS if mutant.slot == slot}) >= 4
