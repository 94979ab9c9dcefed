"""Texts that need a memory: recall values by their keys, also after values have changed.

Letters: B texts of a batch, T symbols of a text, V different symbols.
Source: multi-query associative recall: Arora et al. 2023 (arXiv 2312.04927); keys whose values
change: Schlag, Irie, Schmidhuber 2021 (arXiv 2102.11174), section 6.1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch, Params
from nested.support.checks import check_counts
from nested.tasks.byte_rnn import ElmanNet, token_loss
from nested.tasks.family import NetTask, TwoSided, check_split, draw_uniform, own_generator

UNSCORED = -100  # the target at a symbol that asks no question


class SequenceFamily(TwoSided):
    """Texts of V = ``vocab`` symbols, some of which are questions that a model is to answer.

    ``make_model(V)`` makes the model to train; by default it is a small recurrent net. The model
    maps symbols (B, T) int64 to logits (B, T, V), or to (logits, state) like ``nested.models``.
    Batches are (symbols (B, T), targets (B, T) int64). A target is -100 where no question is asked.
    The loss is cross entropy, in nats per answer.

    Each task gives the symbols other names. "query" texts come from other seeds than "train" texts,
    so they differ unless few texts exist. ``settings``: see ``TwoSided``. Raises ``ValueError`` for
    sizes under 1, and for what a subclass refuses.
    """

    def __init__(
        self,
        vocab: int,
        batch_size: int,
        make_model: Callable[[int], nn.Module] | None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_counts(batch_size=batch_size)
        self.vocab, self.batch_size = vocab, batch_size
        self.make_model = make_model or (lambda vocab: ElmanNet(16, vocab))
        self.set_net(self.new_model(seed=0), token_loss)

    @abstractmethod
    def texts(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw texts (B, T) int64 in 0 to V - 1, and their answers (B, T), -100 where no question
        is asked."""

    def sample(self, generator: Generator) -> SequenceTask:
        generator = own_generator(generator, self.is_held_out)
        return SequenceTask(self, torch.randperm(self.vocab, generator=generator))

    def new_model(self, seed: int) -> nn.Module:
        """Make a model whose initial weights depend on ``seed`` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            default = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)  # the same draws under any default
            try:
                return self.make_model(self.vocab).to(self.device, self.dtype)
            finally:
                torch.set_default_dtype(default)


@dataclass(frozen=True)
class SequenceTask(NetTask):
    """A task of a ``SequenceFamily``: the ``names`` (V,) of its symbols."""

    family: SequenceFamily
    names: Tensor

    def init(self, generator: Generator) -> Params:
        seed = torch.randint(2**31, (), generator=generator).item()
        return {n: p.detach() for n, p in self.family.new_model(seed).named_parameters()}

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        symbols, answers = self.family.texts(own_generator(generator, split == "query"))
        named = torch.where(answers == UNSCORED, answers, self.names[answers.clamp(min=0)])
        return self.family.place(self.names[symbols], named)


class AssociativeRecall(SequenceFamily):
    """Read key, value, key, value, ...; then answer each key, in any order, with its value.

    A text has ``pairs`` different keys of V / 2 = ``symbols`` possible ones, and a value for each,
    out of as many others. Its length T is 3 pairs. Raises ``ValueError`` for more pairs than
    symbols, and as ``SequenceFamily`` does.
    """

    min_pairs = 1

    def __init__(
        self,
        pairs: int = 4,
        symbols: int = 8,
        batch_size: int = 32,
        make_model: Callable[[int], nn.Module] | None = None,
        **settings: Any,
    ) -> None:
        check_counts(pairs=pairs, symbols=symbols)
        if not self.min_pairs <= pairs <= symbols:
            raise ValueError(f"pairs are {self.min_pairs} to symbols = {symbols}, but got {pairs}")
        self.pairs, self.symbols = pairs, symbols
        super().__init__(2 * symbols, batch_size, make_model, **settings)

    def texts(self, generator: Generator) -> tuple[Tensor, Tensor]:
        keys, values = self._pairs(generator)
        return self._ask(generator, [_interleaved(keys, values)], keys, values)

    def _pairs(self, generator: Generator) -> tuple[Tensor, Tensor]:
        keys = _choices(self.symbols, self.pairs, self.batch_size, generator)
        values = torch.randint(self.symbols, keys.shape, generator=generator) + self.symbols
        return keys, values  # (B, pairs)

    def _ask(
        self, generator: Generator, parts: list[Tensor], keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Append all keys, in random order, to the ``parts`` of the texts; answers are values."""
        order = _choices(self.pairs, self.pairs, self.batch_size, generator)
        symbols = torch.cat([*parts, keys.gather(1, order)], dim=1)
        answers = torch.full_like(symbols, UNSCORED)
        answers[:, -self.pairs :] = values.gather(1, order)
        return symbols, answers


class ChangingKeys(AssociativeRecall):
    """``AssociativeRecall`` in which values change: answer each key with its last value.

    After the pairs, half of the keys come again with other values. That happens ``changes`` times,
    each time with another random half. T = 3 pairs + 2 changes (pairs // 2). Raises ``ValueError``
    for fewer than 2 pairs or 1 change, and as ``AssociativeRecall`` does.
    """

    min_pairs = 2

    def __init__(
        self,
        pairs: int = 4,
        symbols: int = 8,
        batch_size: int = 32,
        make_model: Callable[[int], nn.Module] | None = None,
        *,
        changes: int = 1,
        **settings: Any,
    ) -> None:
        check_counts(changes=changes)
        self.changes = changes
        super().__init__(pairs, symbols, batch_size, make_model, **settings)

    def texts(self, generator: Generator) -> tuple[Tensor, Tensor]:
        keys, values = self._pairs(generator)
        parts = [_interleaved(keys, values)]
        for _ in range(self.changes):
            half = _choices(self.pairs, self.pairs // 2, self.batch_size, generator)
            step = torch.randint(1, self.symbols, half.shape, generator=generator)
            old = values.gather(1, half) - self.symbols
            changed = (old + step) % self.symbols + self.symbols  # never the same value
            parts.append(_interleaved(keys.gather(1, half), changed))
            values = values.scatter(1, half, changed)
        return self._ask(generator, parts, keys, values)


def _choices(total: int, count: int, batch_size: int, generator: Generator) -> Tensor:
    """Draw ``count`` different numbers below ``total`` for each text, (B, count)."""
    return draw_uniform((batch_size, total), generator).argsort(dim=1)[:, :count]


def _interleaved(keys: Tensor, values: Tensor) -> Tensor:
    """Alternate keys and values (B, pairs): k v k v ..., (B, 2 pairs)."""
    return torch.stack([keys, values], dim=-1).flatten(1)
