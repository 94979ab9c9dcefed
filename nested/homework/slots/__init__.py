"""The slots of the homework, one file each. ``examples/homework/README.md`` says how to add one."""

from nested.homework.slots import hw0, hw1, hw2, hw3, hw4, hw5, hw6, hw7, hw8, hw_zero

SLOTS = {
    module.SLOT.name: module.SLOT
    for module in (hw0, hw1, hw2, hw3, hw4, hw5, hw6, hw7, hw8, hw_zero)
}

__all__ = ["SLOTS"]
