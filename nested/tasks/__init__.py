"""Families of inner problems, and tasks on texts. A new one is a file, and registered here.

``FAMILIES[name]()`` makes a family, and ``TASKS[group][name]()`` makes a ``TextTask``.
"""

from functools import partial

from nested.tasks.byte_rnn import ByteRNN
from nested.tasks.digit_convolutions import DigitConvolutions
from nested.tasks.digits import Digits
from nested.tasks.family import Task, TaskFamily
from nested.tasks.glyphs import Glyphs
from nested.tasks.languages import LANGUAGES, Language, WordProblem
from nested.tasks.mad import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    Memorisation,
    NoisyRecall,
    SelectiveCopying,
)
from nested.tasks.quadratics import Quadratics
from nested.tasks.rosenbrock import Rosenbrock
from nested.tasks.sequences import AssociativeRecall, ChangingKeys
from nested.tasks.sinusoids import Sinusoids
from nested.tasks.sum_regression import SumRegression
from nested.tasks.text_task import TextTask

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

TASKS = {
    "languages": {name: partial(Language, name) for name in LANGUAGES},
    "groups": {
        "parity": partial(WordProblem, "Z2"),
        "sums mod 5": partial(WordProblem, "Z5"),
        # Two letters that make the whole group: a swap and a turn, or half and third turns of an
        # icosahedron. With all elements as tokens, no model learned A5 in 1,250 steps, and some
        # seeds learned only the sign of S3 in 2,500.
        "S3": partial(WordProblem, "S3", letters=(1, 3)),
        "A5": partial(WordProblem, "A5", letters=(3, 19)),
    },
    "mad": {
        "compression": Compression,
        "in-context recall": InContextRecall,
        "fuzzy recall": FuzzyRecall,
        "noisy recall": NoisyRecall,
        "selective copying": SelectiveCopying,
        "memorisation": Memorisation,
    },
}

__all__ = [
    "FAMILIES",
    "TASKS",
    "AssociativeRecall",
    "ByteRNN",
    "ChangingKeys",
    "Compression",
    "DigitConvolutions",
    "Digits",
    "FuzzyRecall",
    "Glyphs",
    "InContextRecall",
    "Language",
    "Memorisation",
    "NoisyRecall",
    "Quadratics",
    "Rosenbrock",
    "SelectiveCopying",
    "Sinusoids",
    "SumRegression",
    "Task",
    "TaskFamily",
    "TextTask",
    "WordProblem",
]
