"""A clock counts steps from 1 and says when its level moves."""

import pytest

from nested import Clock


def test_steps_count_from_one():
    assert [step for step in range(1, 13) if Clock(5).due(step)] == [5, 10]
    assert all(Clock(1).due(step) for step in range(1, 5))


@pytest.mark.parametrize("period", [0, -1, 2.0, True, "3"])
def test_a_period_that_is_no_whole_number_from_one_is_refused(period):
    with pytest.raises(ValueError, match="a clock's period is a whole number from 1"):
        Clock(period)


def test_step_zero_is_refused():
    with pytest.raises(ValueError, match="steps count from 1"):
        Clock(2).due(0)
