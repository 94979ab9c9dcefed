"""Texts that only a memory can go on with: recall, copying, a needle in noise, a key that changes.

Letters: B texts of a batch, T symbols of a text, V different symbols.
Source: multi-query associative recall: Arora et al. 2023 (arXiv 2312.04927); copying: Graves et al.
2014 (arXiv 1410.5401); a needle in noise: Hsieh et al. 2024 (arXiv 2404.06654); a key whose value
changes: Schlag, Irie, Schmidhuber 2021 (arXiv 2102.11174), section 6.1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch, Params, functional_loss
from nested.support.checks import check_counts
from nested.tasks.byte_rnn import ElmanNet
from nested.tasks.family import NetTask, TwoSided, check_split, own_generator

UNSCORED = -100  # the target of a symbol after which nothing is asked


class SequenceFamily(TwoSided):
    """Texts of V symbols, some of which are questions: a model is scored by its answers.

    ``make_model(V)`` makes the model to train, from symbols (B, T) int64 to logits (B, T, V), or to
    (logits, state) as those in ``nested.models``; a small recurrent net if left out. Batches are
    (symbols (B, T), targets (B, T) int64), the target -100 wherever nothing is asked; the loss is
    cross entropy, in nats an answer. Each task calls the symbols by other names; "query" texts are
    drawn apart from "train", and are others unless there are few. Raises ``ValueError`` for sizes
    under 1 and for what a subclass refuses."""

    vocab: int

    def __init__(
        self,
        batch_size: int,
        make_model: Callable[[int], nn.Module] | None,
        device: torch.device | str,
        dtype: torch.dtype,
        is_held_out: bool,
    ) -> None:
        check_counts(batch_size=batch_size)
        self.batch_size, self.is_held_out = batch_size, is_held_out
        self.device, self.dtype = device, dtype
        self.make_model = make_model or (lambda vocab: ElmanNet(16, vocab))
        self.model = self._fresh(seed=0)
        self.loss = functional_loss(self.model, _cross_entropy)

    @abstractmethod
    def texts(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw texts (B, T) int64 in 0 to V - 1, and the answers (B, T), -100 where none is
        asked."""

    def sample(self, generator: Generator) -> SequenceTask:
        own = own_generator(generator, self.is_held_out)
        return SequenceTask(self, torch.randperm(self.vocab, generator=own))

    def _fresh(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            usual = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)  # the same draws under any default
            try:
                return self.make_model(self.vocab).to(self.device, self.dtype)
            finally:
                torch.set_default_dtype(usual)


@dataclass(frozen=True)
class SequenceTask(NetTask):
    """A task of a ``SequenceFamily``: the ``names`` (V,) of its symbols."""

    family: SequenceFamily
    names: Tensor

    def init(self, generator: Generator) -> Params:
        seed = torch.randint(2**31, (), generator=generator).item()
        return {n: p.detach() for n, p in self.family._fresh(seed).named_parameters()}

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        check_split(split)
        symbols, answers = self.family.texts(own_generator(generator, split == "query"))
        named = torch.where(answers == UNSCORED, answers, self.names[answers.clamp(min=0)])
        return self.names[symbols].to(self.family.device), named.to(self.family.device)


class AssociativeRecall(SequenceFamily):
    """Key, value, key, value, ...; then each key once more, in any order: what was its value?

    A text has ``pairs`` pairs of V / 2 = ``symbols`` keys, all different, and as many values; T = 3
    pairs. Raises ``ValueError`` for more pairs than symbols, and as ``SequenceFamily`` does.
    """

    fewest = 1  # pairs

    def __init__(
        self,
        pairs: int = 4,
        symbols: int = 8,
        batch_size: int = 32,
        make_model: Callable[[int], nn.Module] | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        check_counts(pairs=pairs, symbols=symbols)
        if not self.fewest <= pairs <= symbols:
            raise ValueError(f"pairs are {self.fewest} to {symbols}, the symbols, but got {pairs}")
        self.pairs, self.symbols, self.vocab = pairs, symbols, 2 * symbols
        super().__init__(batch_size, make_model, device, dtype, is_held_out)

    def texts(self, generator: Generator) -> tuple[Tensor, Tensor]:
        keys, values = self._pairs(generator)
        return self._asked(generator, [_interleaved(keys, values)], keys, values)

    def _pairs(self, generator: Generator) -> tuple[Tensor, Tensor]:
        keys = _choices(self.symbols, self.pairs, self.batch_size, generator)
        values = torch.randint(self.symbols, keys.shape, generator=generator) + self.symbols
        return keys, values  # (B, pairs)

    def _asked(self, generator: Generator, told: list[Tensor], keys: Tensor, values: Tensor) -> Any:
        """Texts of what was ``told``, then all keys, with their values for answers."""
        order = _choices(self.pairs, self.pairs, self.batch_size, generator)
        symbols = torch.cat([*told, keys.gather(1, order)], dim=1)
        answers = torch.full_like(symbols, UNSCORED)
        answers[:, -self.pairs :] = values.gather(1, order)
        return symbols, answers


class ChangingKeys(AssociativeRecall):
    """As ``AssociativeRecall``, but on the way half of the keys come again, with other values, and
    that ``changes`` times, each time another half: what are the last values of all keys?

    T = 3 pairs + 2 changes (pairs // 2). Raises ``ValueError`` for fewer pairs than 2 or changes
    than 1, and as ``AssociativeRecall`` does; ``settings`` are its device, dtype and is_held_out.
    """

    fewest = 2

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
        told = [_interleaved(keys, values)]
        for _ in range(self.changes):
            which = _choices(self.pairs, self.pairs // 2, self.batch_size, generator)
            step = torch.randint(1, self.symbols, which.shape, generator=generator)
            old = values.gather(1, which) - self.symbols
            changed = (old + step) % self.symbols + self.symbols  # never the same value
            told.append(_interleaved(keys.gather(1, which), changed))
            values = values.scatter(1, which, changed)
        return self._asked(generator, told, keys, values)


class Copying(SequenceFamily):
    """``length`` symbols, a sign, and the same once more: what comes next? Of T = 2 length symbols,
    V = ``symbols`` + 1, each from the sign on is asked for the next. Raises ``ValueError`` as
    ``SequenceFamily`` does."""

    def __init__(
        self,
        length: int = 8,
        symbols: int = 8,
        batch_size: int = 32,
        make_model: Callable[[int], nn.Module] | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        check_counts(length=length, symbols=symbols)
        self.length, self.symbols, self.vocab = length, symbols, symbols + 1
        super().__init__(batch_size, make_model, device, dtype, is_held_out)

    def texts(self, generator: Generator) -> tuple[Tensor, Tensor]:
        shape = self.batch_size, self.length
        text = torch.randint(self.symbols, shape, generator=generator)
        sign = torch.full((self.batch_size, 1), self.symbols)
        symbols = torch.cat([text, sign, text[:, :-1]], dim=1)
        return symbols, torch.cat([torch.full_like(text, UNSCORED), text], dim=1)


class Needle(SequenceFamily):
    """Noise, in it a sign and the symbol to keep, and at the end the sign again: what was it?

    T = ``length`` symbols, V = ``symbols`` + 1; the needle may be anywhere. Raises ``ValueError``
    for a length under 4, and as ``SequenceFamily`` does."""

    def __init__(
        self,
        length: int = 8,
        symbols: int = 8,
        batch_size: int = 32,
        make_model: Callable[[int], nn.Module] | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        check_counts(length=length, symbols=symbols)
        if length < 4:
            raise ValueError(f"a needle in noise takes 4 symbols at least, but got {length}")
        self.length, self.symbols, self.vocab = length, symbols, symbols + 1
        super().__init__(batch_size, make_model, device, dtype, is_held_out)

    def texts(self, generator: Generator) -> tuple[Tensor, Tensor]:
        shape = self.batch_size, self.length
        text = torch.randint(self.symbols, shape, generator=generator)
        places = torch.randint(self.length - 2, (self.batch_size, 1), generator=generator)
        text.scatter_(1, places, self.symbols)
        text[:, -1] = self.symbols
        answers = torch.full_like(text, UNSCORED)
        answers[:, -1:] = text.gather(1, places + 1)
        return text, answers


def accuracy(logits: Tensor, answers: Tensor) -> float:
    """The share of questions answered right, of logits (B, T, V) and answers (B, T), -100 where
    none is asked; NaN if none is. Raises nothing."""
    asked = answers != UNSCORED
    return (logits.argmax(-1) == answers)[asked].double().mean().item()


def _choices(of: int, count: int, batch_size: int, generator: Generator) -> Tensor:
    """For each text ``count`` different numbers under ``of``, (B, count)."""
    return torch.rand(batch_size, of, generator=generator, dtype=torch.float32).argsort(dim=1)[
        :, :count
    ]


def _interleaved(keys: Tensor, values: Tensor) -> Tensor:
    """k v k v ... (B, 2 pairs) of keys and values (B, pairs)."""
    return torch.stack([keys, values], dim=-1).flatten(1)


def _cross_entropy(output: Tensor | tuple[Tensor, Any], answers: Tensor) -> Tensor:
    logits = output[0] if isinstance(output, tuple) else output
    return nn.functional.cross_entropy(
        logits.flatten(0, -2), answers.flatten(), ignore_index=UNSCORED
    )
