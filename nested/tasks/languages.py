"""Formal languages, and word problems of groups: which memories can count, and track a state?

Letters: B texts of a batch, T tokens of a text, N elements of a group.
Source: Bhattamishra et al. 2020 (arXiv 2009.11264) and Irie et al. 2023 (arXiv 2310.16076) for
languages; Grazzi et al. 2025 (arXiv 2411.12537) and Merrill et al. 2024 (arXiv 2404.08819) for
parity, sums and word problems.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nested.tasks.family import draw_uniform
from nested.tasks.sequences import UNSCORED
from nested.tasks.text_task import TextTask

SIZES = {"Z": (2, 720), "S": (2, 6), "A": (3, 6)}  # m or n of a group: at most 720 elements


class Language(TextTask):
    """Read a string of a formal language; after each symbol, name the set of legal next symbols.

    The sets that can occur are the answers: answer i is the set ``legal[i]``, where "$" is the end
    of the string. A string counts as right if all its answers are ("whole" of ``scores``). Tokens
    are the ``letters``, in order; after a string, the token "$" fills its text and nothing is
    scored.

    Strings have 1 to T symbols. For a T beyond training they have more than T / 2, and more than
    any training string. The number of repeats (or of brackets) is drawn evenly. ``name`` is one of
    ``LANGUAGES``. Raises ``ValueError`` for another name, and for a T without strings.
    """

    def __init__(self, name: str = "a^n b^n", length: int = 40, batch_size: int = 64) -> None:
        if not isinstance(name, str) or name not in LANGUAGES:
            raise ValueError(f"a language is one of {tuple(LANGUAGES)}, but got {name!r}")
        self.name = name
        self.letters, self.legal, self.shortest, self._write = LANGUAGES[name]
        vocab = max(len(self.letters) + 1, len(self.legal))
        super().__init__(vocab, len(self.legal), length, batch_size)

    def _repeats(self, length: int) -> tuple[int, int]:
        above = max(length // 2, self.length) if length > self.length else 0
        return above // self.shortest + 1, length // self.shortest

    def check_length(self, length: int) -> None:
        fewest, most = self._repeats(length)
        if fewest > most:
            raise ValueError(
                f"strings of {self.name} have a multiple of {self.shortest} symbols, and texts of"
                f" {length} tokens hold none (trained on up to {self.length})"
            )

    def texts(self, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        fewest, most = self._repeats(length)
        n = torch.randint(fewest, most + 1, (self.batch_size, 1), generator=generator)
        t = torch.arange(length)
        symbols, sets = self._write(n, t, generator)  # (B, T) or (T,)
        is_inside = t < self.shortest * n
        tokens = torch.where(is_inside, symbols, len(self.letters))
        return tokens, torch.where(is_inside, sets, UNSCORED)


class Grammar(NamedTuple):
    """A language: its letters, its sets of legal next symbols, and the length of its first string.

    ``write(n, t, generator)`` gives symbols and sets (B, T) at the positions t (T,), of strings
    with n (B, 1) times the length of the first one.
    """

    letters: str
    legal: tuple[str, ...]
    shortest: int
    write: Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


def _repeated(symbols: list[int], sets: list[int]) -> Callable:
    """Write strings that repeat ``symbols``; after each of them stands one of ``sets``."""

    def write(n: Tensor, t: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        at = t % len(symbols)
        return torch.tensor(symbols)[at], torch.tensor(sets)[at]

    return write


def _in_blocks(n: Tensor, t: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Write n times a, n times b, ... Within the first block, another a and the first b are legal;
    later, the symbol at the next position is."""
    return t // n, torch.where(t < n, 0, (t + 1) // n)


def _two_brackets(n: Tensor, t: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw strings of n pairs of round and square brackets, all equally probable.

    Set 1 lets a round bracket close, set 2 a square one, set 3 both; set 0 lets the string end."""
    round_pairs = _draw_round_pairs(n, generator)
    is_round = _choose(2 * round_pairs, 2 * n, len(t), generator)
    rounds, squares = (
        _balanced(pairs, len(t), generator) for pairs in (round_pairs, n - round_pairs)
    )
    nth_round, nth_square = ((part.cumsum(1) - 1).clamp(min=0) for part in (is_round, ~is_round))
    steps = torch.where(is_round, rounds.gather(1, nth_round), squares.gather(1, nth_square))
    round_depth, square_depth = ((steps * part).cumsum(1) for part in (is_round, ~is_round))
    symbols = 2 * ~is_round + (steps < 0)
    return symbols, (round_depth > 0) + 2 * (square_depth > 0)


def _draw_round_pairs(n: Tensor, generator: Generator) -> Tensor:
    """Draw how many of n (B, 1) pairs are round, (B, 1), so that all strings are equally probable.

    C_k C_(n-k) binom(2n, 2k) strings have k round pairs, C_k being Catalan's numbers. That is
    (2n)! / (k! (k + 1)! (n - k)! (n - k + 1)!)."""
    k = torch.arange(n.max() + 1, dtype=torch.float64)
    rest = n - k
    log_counts = -sum(torch.lgamma(x.clamp(min=0) + i) for x in (k, rest) for i in (1, 2))
    log_counts = log_counts.masked_fill(rest < 0, -torch.inf)
    return torch.multinomial(log_counts.softmax(1), 1, generator=generator)


def _choose(count: Tensor, total: Tensor, width: int, generator: Generator) -> Tensor:
    """Choose ``count`` (B, 1) of the first ``total`` (B, 1) positions of each row, (B, width)."""
    t = torch.arange(width)
    keys = draw_uniform((len(count), width), generator).masked_fill(t >= total, 2)
    return torch.zeros(keys.shape, dtype=torch.bool).scatter(1, keys.argsort(1), t < count)


def _balanced(pairs: Tensor, width: int, generator: Generator) -> Tensor:
    """Draw balanced strings of ``pairs`` (B, 1) brackets evenly: 1 opens and -1 closes, (B, width).

    Of n opening and n + 1 closing brackets on a circle, exactly one closes nothing (the cycle
    lemma). A balanced string starts behind it. It stands where the depth is first at its lowest.
    Numbers after a string mean nothing."""
    t, around = torch.arange(width + 1), 2 * pairs + 1
    steps = torch.where(_choose(pairs, around, width + 1, generator), 1, -1)
    depths = steps.cumsum(1).masked_fill(t >= around, width)
    start = depths.argmin(1, keepdim=True) + 1
    return steps.gather(1, (start + t[:width]) % around)


LANGUAGES = {
    "(aa)*": Grammar("a", ("a", "a$"), 2, _repeated([0, 0], [0, 1])),
    "(abab)*": Grammar("ab", ("a", "b", "a$"), 4, _repeated([0, 1, 0, 1], [1, 0, 1, 2])),
    "a^n b^n": Grammar("ab", ("ab", "b", "$"), 2, _in_blocks),
    "a^n b^n c^n": Grammar("abc", ("ab", "b", "c", "$"), 3, _in_blocks),
    "shuffle-2": Grammar("()[]", ("([$", "([)", "([]", "([)]"), 2, _two_brackets),
}


class WordProblem(TextTask):
    """Read elements of a group; after each, name the product of all elements read.

    Tokens and answers are the N elements, and every token is scored. ``group`` is "Zm", "Sn" or
    "An": sums modulo m ("Z2" is parity), all permutations of n points, or the even ones. A product
    applies its left element first. Tokens are drawn evenly from all elements, so answers are
    equally frequent, or from ``letters`` alone, elements by number. Raises ``ValueError`` for
    another group, for one of under 2 or over 720 elements, and for letters that are none of them.
    """

    def __init__(
        self,
        group: str = "S3",
        length: int = 40,
        batch_size: int = 64,
        *,
        letters: tuple[int, ...] | None = None,
    ) -> None:
        self.group, self.table = group, multiplication_table(group)
        count = len(self.table)
        letters = tuple(range(count)) if letters is None else letters
        is_list = isinstance(letters, (tuple, list)) and len(letters) > 0
        if not is_list or any(type(x) is not int or x not in range(count) for x in letters):
            raise ValueError(
                f"letters are one or more elements from 0 to {count - 1}, but got {letters!r}"
            )
        self.letters = tuple(letters)
        super().__init__(count, count, length, batch_size)

    def check_length(self, length: int) -> None:
        pass  # every length has words

    def texts(self, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch_size, length)
        drawn = torch.randint(len(self.letters), shape, generator=generator)
        tokens = torch.tensor(self.letters)[drawn]
        products, step = tokens, 1
        while step < length:  # products[:, t] has the last 2 x step elements up to t
            longer = self.table[products[:, :-step], products[:, step:]]
            products = torch.cat([products[:, :step], longer], dim=1)
            step *= 2
        return tokens, products


def multiplication_table(group: str) -> Tensor:
    """Make the table (N, N) int64 of a group's products: row times column. Element 0 is the unit.

    Permutations are in the order of ``itertools``. Raises ``ValueError`` as ``WordProblem`` does.
    """
    match = re.fullmatch("([ZSA])([0-9]{1,9})", str(group))
    kind, n = (match[1], int(match[2])) if match else ("Z", 0)
    low, high = SIZES[kind]
    if not low <= n <= high:
        ranges = " or ".join(f"{k}{a} to {k}{b}" for k, (a, b) in SIZES.items())
        raise ValueError(f"a group is {ranges}, but got {group!r}")
    if kind == "Z":
        return (torch.arange(n)[:, None] + torch.arange(n)) % n
    elements = [p for p in permutations(range(n)) if kind == "S" or _is_even(p)]
    number = {p: i for i, p in enumerate(elements)}
    rows = [[number[tuple(second[x] for x in first)] for second in elements] for first in elements]
    return torch.tensor(rows)


def _is_even(permutation: tuple[int, ...]) -> bool:
    pairs = [(a, b) for i, b in enumerate(permutation) for a in permutation[:i]]
    return sum(a > b for a, b in pairs) % 2 == 0
