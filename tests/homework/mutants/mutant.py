"""What a wrong answer is: a right one with one fault that students make, and the check for it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nested.homework.slots import SLOTS

ANSWERS = Path(__file__).parents[1] / "answers"
STYLES = sorted((Path(__file__).parents[1] / "styles").glob("hw*.py"))  # more right answers


class Mutant(NamedTuple):
    """``old``, in the right answer of ``slot``, becomes ``new``; ``check`` is to fail.

    ``added`` has more such pairs, one after another, for what the fault needs besides. ``new`` is
    the whole file if ``old`` is empty.
    """

    slot: str
    fault: str
    old: str
    new: str
    check: str
    added: tuple[str, ...] = ()


LR, MOMENTUM = "the hypergradient of the learning rate", "the hypergradient of the momentum"
WEIGHTS, VALUES = "the hypergradient of the initial weights", "it trains as torch.optim.SGD does"
PURE, RIGHT = "changes nothing passed in", "the hypergradient is right"
REACHED = "every meta-parameter and the state are reached"
IN_PLACE = "nothing passed in is changed"
FORGETS = "it forgets along its key"
HUBER = "its objective is Huber's"
LEARNS = "briefly meta-trained it improves"


def right_answer(slot: str) -> Path:
    (path,) = ANSWERS.glob(f"{slot}_*.py")
    return path


def slot_of(path: Path) -> str:
    """The slot that a file of ``STYLES`` answers: its name begins with the slot's."""
    return max((name for name in SLOTS if path.stem.startswith(f"{name}_")), key=len)


def write(mutant: Mutant, folder: Path) -> Path:
    """Write the mutant's file, named as the student's, in ``folder``."""
    right = right_answer(mutant.slot)
    text = right.read_text() if mutant.old else mutant.new
    for old, new in [(mutant.old, mutant.new), *zip(mutant.added[::2], mutant.added[1::2])]:
        assert old in text, f"{mutant.slot} {mutant.fault}: the right answer has no {old!r}"
        text = text.replace(old, new, 1) if old else text
    path = folder / right.name
    path.write_text(text)
    return path
