"""Can the grader be trusted?   python -m tests.homework.benchmark [SEEDS]

Grades every right answer with SEEDS seeds (50 by default, an hour on one core), and those in other
styles with a tenth of them: all must get full points, every time. Then looks at every wrong answer
with every check and prints the table: each must lose the check that names its fault. Exits non-zero
when either fails.
"""

import sys
import tempfile
import time
from pathlib import Path

from nested.homework.slots import SLOTS
from tests.homework.mutants import MUTANTS, STYLES, draw_row, look, right_answer, slot_of, write


def right_answers(seeds: int) -> int:
    """Print what failed; return how many verdicts did."""
    failed = sum(grade_often(right_answer(name), name, seeds) for name in SLOTS)
    few = max(1, seeds // 10)
    return failed + sum(grade_often(path, slot_of(path), few) for path in STYLES)


def grade_often(path: Path, slot: str, seeds: int) -> int:
    """Print what failed of one right answer; return how many verdicts did."""
    failed, began, names = 0, time.monotonic(), [check.name for check in SLOTS[slot].checks]
    for seed in range(seeds):
        for check, verdict in look(path, slot, names, seed).items():
            if not verdict.passed:
                failed += 1
                print(f"{path.stem} seed {seed}: {check}: {verdict.measured}", flush=True)
    seconds = (time.monotonic() - began) / seeds
    verdicts = seeds * len(names)
    print(f"{path.stem}: {verdicts} verdicts, {failed} failed, {seconds:.1f} s a seed", flush=True)
    return failed


def wrong_answers() -> int:
    """Print the table of mutants and checks; return how many were not caught."""
    missed = 0
    for name, slot in SLOTS.items():
        print(f"\n{name}")
        for number, check in enumerate(slot.checks):
            print(f"  {number:>2} {check.name}")
        for mutant in (mutant for mutant in MUTANTS if mutant.slot == name):
            with tempfile.TemporaryDirectory() as folder:
                path = write(mutant, Path(folder))
                verdicts = look(path, name, [check.name for check in slot.checks])
            missed += verdicts[mutant.check].passed
            print(draw_row(mutant, verdicts), flush=True)
    return missed


if __name__ == "__main__":
    failures = right_answers(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
    misses = wrong_answers()
    print(f"\n{failures} false failures of right answers, {misses} wrong answers missed")
    sys.exit(failures + misses > 0)
