"""Lesson 08. Clocks: what survives in slow levels?

Ask. Four levels of a continuum memory read the same text and learn in the same way, but one moves
every 4 tokens, the others every 16, 64 and 256. The text speaks of one thing for long, and then of
another. Who knows the new first, who still knows the old, and does a level that waits still read?

Show. Run `python examples/08_clocks.py`; the picture is runs/lesson_08.png.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nested.memory.continuum import ContinuumLevel
from nested.support.files import prepare_folder
from nested.support.plots import COLOURS, new_figure, save_figure

PERIODS = (4, 16, 64, 256)
DIM, FACTS = 32, 6  # a fact is a key of DIM / 2 numbers and a value of as many
FIRST, SECOND = 32_768, 2_048  # tokens about the old, and about the new
BEFORE, EVERY = 512, 32  # tokens before the change from which on we look, every so many


def facts(seed: int) -> Tensor:
    """(FACTS, DIM): keys, then values."""
    generator = torch.Generator().manual_seed(seed)
    halves = (torch.randn(FACTS, DIM // 2, generator=generator) for _ in range(2))
    return torch.cat([normalize(half, dim=-1) for half in halves], dim=-1)


def level(period: int) -> ContinuumLevel:
    """A level that takes the first half of a token for its key, the second for its value."""
    torch.manual_seed(0)
    made = ContinuumLevel(DIM, period).requires_grad_(False)
    half = torch.eye(DIM // 2)
    for part, place in ((made.query, 0), (made.key, 0), (made.value, DIM // 2)):
        part.weight.zero_()[: DIM // 2, place : place + DIM // 2] = half
    made.rate.bias += 3
    return made


def off(made: ContinuumLevel, state: dict, known: Tensor) -> float:
    """How far off its values are, by their size, of facts of which it reads the keys alone."""
    keys = known.clone()
    keys[:, DIM // 2 :] = 0
    y, _ = made(keys[:, None], {**state, "memory": _for_each(state["memory"], len(keys))})
    wanted = known[:, DIM // 2 :]
    return ((y[:, 0, : DIM // 2] - wanted).norm() / wanted.norm()).item()


def _for_each(memory: dict, count: int) -> dict:
    """The same memory for each of ``count`` samples."""
    return {
        when: {name: w.expand(count, -1, -1) for name, w in weights.items()}
        for when, weights in memory.items()
    }


def main(folder: Path = Path("runs")) -> dict[str, float]:
    old, new = facts(1), facts(2)
    order = torch.randint(FACTS, (FIRST + SECOND,), generator=torch.Generator().manual_seed(3))
    text = torch.cat([old[order[:FIRST]], new[order[FIRST:]]])[None]  # (1, T, DIM)
    numbers, curves = {}, {}
    print(f"error of values after {FIRST:,} tokens about the old, and {SECOND:,} about the new")
    print("  period   moves    the old, before    the old, after    the new")
    for period in PERIODS:
        made, looks = level(period), []
        _, state = made(text[:, : FIRST - BEFORE])
        for part in text[:, FIRST - BEFORE :].split(EVERY, dim=1):
            _, state = made(part, state)
            looks.append((off(made, state, old), off(made, state, new)))
        before, after = looks[BEFORE // EVERY - 1], looks[-1]
        curves[period] = looks
        numbers |= {f"old before, {period}": before[0], f"old after, {period}": after[0]}
        numbers[f"new after, {period}"] = after[1]
        moves = (FIRST + SECOND) // period
        print(f"{period:8}{moves:8}{before[0]:19.2f}{after[0]:18.2f}{after[1]:11.2f}")
    figure, (panels,) = new_figure(1, 2)
    for panel, which, title in zip(panels, (0, 1), ("the old facts", "the new facts")):
        for colour, (period, looks) in zip(COLOURS, curves.items()):
            at = [(i + 1) * EVERY - BEFORE for i in range(len(looks))]
            errors = [look[which] for look in looks]
            panel.plot(at, errors, label=f"moves every {period} tokens", color=colour)
        panel.axvline(0, color="black", linestyle=":")
        panel.set_title(title, fontsize=9)
        panel.set(xlabel="tokens since the text changed its subject", ylim=(0, 1.6))
    panels[0].set(ylabel="error of values, relative")
    panels[0].legend(fontsize=7, ncols=2, loc="upper center")
    save_figure(figure, prepare_folder(folder) / "lesson_08.png")
    return numbers


# Answer. Who moves often knows the new after a few hundred tokens, and nothing of the old is left;
# who moves seldom still holds the old when the fast have lost it, and learns the new last. Steps
# are of one size, the mean over a chunk; the slow take fewer of them. So the clock alone sets how
# far back a level remembers, and a chain of levels holds the present and the past at once. And a
# level that waits reads all the same: the curve of the slowest is a staircase, but it has no gaps.

if __name__ == "__main__":
    main()
