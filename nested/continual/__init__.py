"""Continual learning: streams of tasks, strategies against forgetting, and honest metrics."""

from nested.continual.metrics import (
    any_time_average,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
)
from nested.continual.registry import STRATEGIES
from nested.continual.run import Result, run
from nested.continual.strategy import Strategy
from nested.continual.stream import Stream, make_stream
from nested.tasks.labelled import LabelledData, labelled

__all__ = [
    "STRATEGIES",
    "LabelledData",
    "Result",
    "Strategy",
    "Stream",
    "any_time_average",
    "average_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "labelled",
    "learning_accuracy",
    "make_stream",
    "run",
]
