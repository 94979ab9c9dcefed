"""Settings are refused before any work, in words that help."""

import dataclasses

import pytest

from nested import MetaConfig


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"unroll_length": 0}, "unroll_length is a whole number from 1, but got 0"),
        ({"meta_steps": 1.5}, "meta_steps is a whole number"),
        ({"tasks": True}, "tasks is a whole number"),
        ({"max_skips": -3}, "max_skips is a whole number"),
        ({"max_horizon": 5}, "max_horizon is at least unroll_length"),
        ({"seed": -1}, "seed is a whole number from 0"),
        ({"lr": 0.0}, "lr is a finite number above 0, but got 0.0"),
        ({"lr": float("nan")}, "lr is a finite number"),
        ({"clip": float("inf")}, "clip is a finite number"),
        ({"objective": "last"}, "objective is one of"),
        ({"backend": "fast"}, "there is no backend 'fast'"),
    ],
)
def test_what_is_not_allowed_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MetaConfig(**wrong)


def test_it_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MetaConfig().lr = 1.0
