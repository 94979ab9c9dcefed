"""The interval of a mean against tables of Student's t."""

import math

import pytest
import torch

from nested.support.intervals import interval


@pytest.mark.parametrize(
    "count, t", [(2, 12.706), (3, 4.303), (10, 2.262), (11, 2.228), (31, 2.042)]
)
def test_an_interval_is_students(count, t):
    """95 % points of Student's t from the tables of Fisher and Yates."""
    values = [float(i % 2) for i in range(count)]
    mean, half = interval(values)
    deviation = torch.tensor(values, dtype=torch.float64).std().item()
    assert mean == pytest.approx(sum(values) / count)
    assert half == pytest.approx(t * deviation / math.sqrt(count), rel=5e-4)
    assert interval([0.4]) == (0.4, math.inf)
