"""Windows of text to train on: drawn at random, or read on from one to the next.

Letters: B texts side by side, T tokens of a window.
Source: stateful truncated backpropagation, Williams and Peng 1990.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from nested.language.coder import END, Coder, special
from nested.language.text import Documents
from nested.tasks.facts import fact_text

ANSWERED = 10  # how often an answer counts in the loss: few tokens are answers
FACTS_FIRST, WINDOWS = 0.05, 4  # share of a training, and windows of a text of facts
LINE = 80  # characters of a line between facts


class Window(NamedTuple):
    """One batch. ``targets`` (B, T) are the tokens that follow ``tokens`` (B, T), and each counts
    ``weights`` (B, T) times in the loss. ``lengths`` (B,) count the tokens that are there.
    ``is_new`` (B,) marks texts that begin here. ``write`` (B, T) marks tokens to write."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    lengths: Tensor
    is_new: Tensor
    write: Tensor | None


class Windows:
    """Draws pieces of ``documents`` and reads each in windows of ``length`` tokens.

    A piece has at most ``text_length`` tokens. The chance of a document is proportional to its
    tokens. With a ``text_length`` of one window each window is a text of its own.

    A share ``facts`` of the texts of a batch are texts of facts instead, drawn anew. Only their
    answers count in the loss, so that the model learns to recall facts and not to write them. Each
    window of these texts asks for the facts that it states. Gradients end at the window, so a
    question must stand in the window of its fact. Few questions teach recall slowly. So a training
    starts with texts of facts only. Their share goes down to ``facts`` within the first 5 % of its
    steps. In as many other texts random tokens are not written. The model so learns to read texts
    of which ``memorise`` writes only a part.

    Everything is drawn from ``generator``; ``state_dict`` and ``load_state_dict`` continue exactly.
    """

    def __init__(
        self,
        documents: Documents,
        coder: Coder,
        batch_size: int,
        length: int,
        text_length: int,
        facts: float,
        generator: Generator,
    ) -> None:
        self._documents, self._coder, self._generator = documents, coder, generator
        self.length, self.text_length = length, text_length
        self._ends = np.cumsum(documents.lengths)
        self._facts, self._progress = facts, 0.0
        # the first texts end at different windows
        self._left = [self._text(b, batch_size) for b in range(batch_size)]  # tokens and weights
        cuts = (length * self._below(max(1, (left.shape[1] - 1) // length)) for left in self._left)
        self._left = [left[:, cut:] for left, cut in zip(self._left, cuts)]
        self._is_new = [True] * batch_size

    def _text(self, b: int, batch_size: int) -> np.ndarray:
        """Draw the next text of row b, (2, T): tokens and weights."""
        share = max(self._facts, 1 - self._progress / FACTS_FIRST) if self._facts else 0.0
        rows = max(round(share * batch_size), share > 0 and batch_size > 1)
        return self._text_of_facts() if b < rows else self._piece()

    def _below(self, stop: int) -> int:
        return int(torch.randint(int(stop), (1,), generator=self._generator))

    def _piece(self) -> np.ndarray:
        at = self._below(self._ends[-1])
        i = int(np.searchsorted(self._ends, at, side="right"))
        start = self._below(max(1, self._documents.lengths[i] - self.text_length))
        tokens = self._documents.tokens(i, start, start + self.text_length + 1)
        return np.stack([tokens, np.ones_like(tokens)])

    def _text_of_facts(self) -> np.ndarray:
        rows: list[tuple[int, int]] = []
        while len(rows) < min(self.text_length, WINDOWS * self.length):
            room, unit, others = self.length - len(rows) % self.length, [], self._lines()
            for text, is_answer in fact_text(self.length, self._generator, others):
                unit += self._weighted(text, ANSWERED if is_answer else 0)
            if len(unit) > room and room < self.length:  # it goes into the next window
                unit = self._weighted("".join(others) * room, 0)[:room]
            rows += unit
        return np.array([*rows, (special(self._coder, END), 0)]).T

    def _lines(self) -> list[str]:
        """Draw some lines of text. A memory that writes them has less room for facts."""
        tokens = self._piece()[0][: self.length]
        lines = self._coder.decode(tokens.tolist()).decode("utf-8", "replace").split("\n")
        return [line[:LINE] + "\n" for line in lines]

    def _weighted(self, text: str, weight: int) -> list[tuple[int, int]]:
        return [(token, weight) for token in self._coder.encode(text.encode())]

    def draw(self, progress: float = 1.0) -> Window:
        """Return the next window of each text, at a ``progress`` of the training from 0 to 1."""
        self._progress = progress
        shape, rows = (len(self._left), self.length), []
        tokens, targets, weights = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
        lengths, is_new = torch.zeros(shape[0], dtype=torch.int64), torch.tensor(self._is_new)
        for b, left in enumerate(self._left):
            row = torch.from_numpy(left[:, : self.length + 1])
            count = lengths[b] = row.shape[1] - 1
            tokens[b, :count], targets[b, :count] = row[0, :-1], row[0, 1:]
            weights[b, :count] = row[1, 1:]
            self._is_new[b] = left.shape[1] - count < 2
            rows.append(self._text(b, shape[0]) if self._is_new[b] else left[:, count:])
        self._left = rows
        chances = torch.rand(shape[0], self.length + 1, generator=self._generator)
        chances[: shape[0] - round(self._facts * shape[0]), 0] = 1
        chances[(weights[:, 0] == 0) | (weights == ANSWERED).any(1), 0] = 1  # facts are written
        write = chances[:, 1:] < chances[:, :1] if self._facts else None
        return Window(tokens, targets, weights, lengths, is_new, write)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next windows depend on: tensors (...) and lists."""
        left = [torch.from_numpy(np.array(row)) for row in self._left]
        state = self._generator.get_state()
        return {"left": left, "is_new": list(self._is_new), "generator": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken, tensors (...) and lists."""
        self._left = [row.numpy() for row in state["left"]]
        self._is_new = list(state["is_new"])
        self._generator.set_state(state["generator"])
