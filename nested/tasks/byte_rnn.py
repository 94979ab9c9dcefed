"""Predict text, byte by byte, with a small recurrent net.

Letters: B rows of a batch, T bytes read. Source: Elman 1990; text language modelling as an inner
problem after Metz et al. 2020 (arXiv 2009.11243). The text is the help that comes with Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch
from nested.support.checks import check_counts
from nested.tasks.family import NetTask, TwoSided, check_split

BYTES = 128  # other characters than ASCII are read as byte 0
PASSAGE = 4000  # bytes in the text of one task


@cache
def load_help() -> Tensor:
    """Return the text of Python's help topics, (length,) int64 in 0 to 127."""
    from pydoc_data.topics import topics  # here, as other families do not need half a megabyte

    text = "\n".join(topics[name] for name in sorted(topics))
    codes = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()
    return torch.where(codes < BYTES, codes, 0)


class ElmanNet(nn.Module):
    """A recurrent net ``h <- tanh(U h + E x)`` that predicts the next of V = ``vocab`` symbols.

    It maps symbols (B, T) int64 to logits (B, T, V).
    """

    def __init__(self, hidden: int, vocab: int = BYTES) -> None:
        super().__init__()
        self.vocab = vocab
        self.embed = nn.Linear(vocab, hidden)
        self.recur = nn.Linear(hidden, hidden, bias=False)
        self.read = nn.Linear(hidden, vocab)

    def forward(self, text: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(text, self.vocab).to(self.embed.weight.dtype)
        inputs = self.embed(one_hot)  # (B, T, H)
        hidden, states = torch.zeros_like(inputs[:, 0]), []
        for x in inputs.unbind(1):
            # h <- tanh(U h + E x)
            hidden = torch.tanh(self.recur(hidden) + x)
            states.append(hidden)
        return self.read(torch.stack(states, dim=1))


class ByteRNN(TwoSided):
    """Predict the next byte of English with a recurrent net of ``hidden`` units.

    Letters: B ``batch_size``, T ``length``. Each task has one passage, 4,000 bytes of Python's
    help. Batches are (bytes (B, T) int64, the bytes after them (B T,) int64); the loss is cross
    entropy, in nats a byte. Train batches come from the first three quarters of a passage, queries
    from the last quarter. Meta-training tasks use even passages, held-out tasks odd ones.
    ``settings``: see ``TwoSided``. Raises ``ValueError`` for sizes under 1, and for a length that a
    quarter of a passage cannot hold.
    """

    def __init__(
        self, hidden: int = 32, batch_size: int = 16, length: int = 12, **settings: Any
    ) -> None:
        super().__init__(**settings)
        check_counts(hidden=hidden, batch_size=batch_size, length=length)
        if length > PASSAGE // 8:
            raise ValueError(f"length is at most {PASSAGE // 8} bytes, but got {length}")
        self.hidden, self.batch_size, self.length = hidden, batch_size, length
        self.set_net(ElmanNet(hidden), token_loss)

    @property
    def passages(self) -> Tensor:
        """The passages of this side, (N, 4000) int64."""
        text = load_help()
        return text[: len(text) // PASSAGE * PASSAGE].view(-1, PASSAGE)[int(self.is_held_out) :: 2]

    def sample(self, generator: Generator) -> ByteRNNTask:
        chosen = torch.randint(len(self.passages), (), generator=generator).item()
        return ByteRNNTask(self, self.passages[chosen])


@dataclass(frozen=True)
class ByteRNNTask(NetTask):
    """A task of ``ByteRNN``: its ``passage`` (4000,) int64."""

    family: ByteRNN
    passage: Tensor

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        family, border = self.family, PASSAGE * 3 // 4
        text = self.passage[:border] if split == "train" else self.passage[border:]
        shape = (family.batch_size, 1)
        starts = torch.randint(len(text) - family.length, shape, generator=generator)
        pieces = text[starts + torch.arange(family.length + 1)]  # (B, T + 1)
        return family.place(pieces[:, :-1], pieces[:, 1:].flatten())


def token_loss(output: Tensor | tuple[Tensor, Any], targets: Tensor) -> Tensor:
    """Compute the cross entropy () of the logits (..., V) that a model returns, alone or with its
    state, and ``targets`` (...). Targets of -100 do not count."""
    logits = output[0] if isinstance(output, tuple) else output
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
