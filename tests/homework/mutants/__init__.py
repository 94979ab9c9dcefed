"""Wrong answers, a file for each slot, and how they are looked at."""

from tests.homework.mutants import hw0, hw1, hw2, hw3, hw4, hw5, hw6, hw7, hw8, hw_zero
from tests.homework.mutants.look import Box, draw_row, look
from tests.homework.mutants.mutant import ANSWERS, STYLES, Mutant, right_answer, slot_of, write

MUTANTS = [
    m for slot in (hw0, hw1, hw2, hw3, hw4, hw5, hw6, hw7, hw8, hw_zero) for m in slot.MUTANTS
]

__all__ = [
    "ANSWERS",
    "MUTANTS",
    "STYLES",
    "Box",
    "Mutant",
    "draw_row",
    "look",
    "right_answer",
    "slot_of",
    "write",
]
