"""Families of inner problems, with their data. A new one is a file, and registered here."""

from nested.tasks.byte_rnn import ByteRNN
from nested.tasks.digit_convolutions import DigitConvolutions
from nested.tasks.digits import Digits
from nested.tasks.family import Task, TaskFamily
from nested.tasks.glyphs import Glyphs
from nested.tasks.quadratics import Quadratics
from nested.tasks.rosenbrock import Rosenbrock
from nested.tasks.sequences import AssociativeRecall, ChangingKeys
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
}

__all__ = [
    "FAMILIES",
    "AssociativeRecall",
    "ByteRNN",
    "ChangingKeys",
    "DigitConvolutions",
    "Digits",
    "Glyphs",
    "Quadratics",
    "Rosenbrock",
    "Sinusoids",
    "SumRegression",
    "Task",
    "TaskFamily",
]
