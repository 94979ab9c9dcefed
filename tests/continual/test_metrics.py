"""Metrics against numbers worked out by hand."""

import pytest
import torch

from nested.continual import (
    any_time_average,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
)

TWO = torch.tensor([[0.9, 0.1], [0.6, 0.8]], dtype=torch.float64)
ROWS = [[0.8, 0.3, 0.1], [0.9, 0.7, 0.2], [0.5, 0.4, 0.6]]
THREE = torch.tensor(ROWS, dtype=torch.float64)


def test_two_tasks_by_hand():
    assert average_accuracy(TWO) == pytest.approx(0.7)
    assert forgetting(TWO) == pytest.approx(0.3)
    assert backward_transfer(TWO) == pytest.approx(-0.3)
    assert forward_transfer(TWO, 0.25) == pytest.approx(0.1 - 0.25)
    assert learning_accuracy(TWO) == pytest.approx(0.85)
    assert any_time_average(TWO) == pytest.approx((0.9 + 0.7) / 2)


def test_three_tasks_by_the_formulas_of_the_papers():
    """The first task gets better before it is forgotten: its best is after task 2, not after 1."""
    assert average_accuracy(THREE) == pytest.approx((0.5 + 0.4 + 0.6) / 3)
    assert forgetting(THREE) == pytest.approx(((0.9 - 0.5) + (0.7 - 0.4)) / 2)
    assert backward_transfer(THREE) == pytest.approx(((0.5 - 0.8) + (0.4 - 0.7)) / 2)
    untrained = [0.5, 0.1, 0.3]
    assert forward_transfer(THREE, untrained) == pytest.approx(((0.3 - 0.1) + (0.2 - 0.3)) / 2)
    assert any_time_average(THREE) == pytest.approx((0.8 + 0.8 + 0.5) / 3)


def test_a_task_that_gets_better_is_not_forgotten():
    assert forgetting(torch.tensor([[0.5, 0.0], [0.8, 0.9]])) == pytest.approx(-0.3)


def test_one_task_forgets_nothing():
    one = torch.tensor([[0.7]])
    assert average_accuracy(one) == pytest.approx(0.7)
    assert forgetting(one) == backward_transfer(one) == forward_transfer(one) == 0.0


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3), torch.zeros(4), torch.zeros(0, 0)])
def test_a_matrix_is_square(wrong):
    for metric in (average_accuracy, forgetting, backward_transfer, forward_transfer):
        with pytest.raises(ValueError, match="a matrix of accuracies is"):
            metric(wrong)
    with pytest.raises(ValueError, match="untrained has 2 accuracies"):
        forward_transfer(TWO, [0.1, 0.2, 0.3])
