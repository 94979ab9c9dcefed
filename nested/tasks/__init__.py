"""Families of inner problems, with their data."""

from nested.tasks.byte_rnn import ByteRNN
from nested.tasks.digit_convolutions import DigitConvolutions
from nested.tasks.digits import Digits
from nested.tasks.family import Task, TaskFamily
from nested.tasks.glyphs import Glyphs
from nested.tasks.quadratics import Quadratics
from nested.tasks.rosenbrock import Rosenbrock
from nested.tasks.sequences import AssociativeRecall, ChangingKeys, Copying, Needle
from nested.tasks.sinusoids import Sinusoids
from nested.tasks.sum_regression import SumRegression

FAMILIES = {
    "digits": Digits,
    "convolutions": DigitConvolutions,
    "glyphs": Glyphs,
    "sinusoids": Sinusoids,
    "sum": SumRegression,
    "quadratics": Quadratics,
    "rosenbrock": Rosenbrock,
    "text": ByteRNN,
    "recall": AssociativeRecall,
    "changing-keys": ChangingKeys,
    "copying": Copying,
    "needle": Needle,
}

__all__ = [
    "FAMILIES",
    "AssociativeRecall",
    "ByteRNN",
    "ChangingKeys",
    "Copying",
    "DigitConvolutions",
    "Digits",
    "Glyphs",
    "Needle",
    "Quadratics",
    "Rosenbrock",
    "Sinusoids",
    "SumRegression",
    "Task",
    "TaskFamily",
]
