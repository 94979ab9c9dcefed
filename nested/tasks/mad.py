"""The six tasks of MAD: small ones that predict how well a layer serves a large language model.

Letters: B texts of a batch, T tokens of a text, V tokens, P pairs of a text, M motifs.
Source: Poli et al. 2024 (arXiv 2403.17844), with the sizes of its easiest setting. MAD trains on a
fixed set of 256 to 12,800 texts. Its recall tasks train on every next token. Here texts are always
new, and training scores what testing scores. The classes name further differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nested.support.checks import check_counts, check_seed
from nested.tasks.family import draw_uniform
from nested.tasks.sequences import UNSCORED
from nested.tasks.text_task import TextTask

MOST_MOTIFS = 1_000_000  # all are listed


class InContextRecall(TextTask):
    """Read key, value, key, value, ...; at each key that came before, name its value.

    A text has T / 2 pairs. Keys are the first half of the tokens, values the other half. In each
    text the values of keys are drawn anew, and two keys may share one. With ``noise``, that share
    of pairs is two noise tokens instead, out of the last ``noise_vocab`` of the V tokens. The last
    key always came before.
    Raises ``ValueError`` for an odd T or one under 4, and for noise without tokens for it.
    """

    def __init__(
        self,
        vocab: int = 16,
        length: int = 128,
        batch_size: int = 64,
        *,
        noise: float = 0.0,
        noise_vocab: int = 0,
    ) -> None:
        check_counts(vocab=vocab)
        are_numbers = isinstance(noise, (int, float)) and type(noise_vocab) is int
        is_share = are_numbers and 0 <= noise < 1
        if not is_share or noise_vocab < 0 or (noise > 0) != (noise_vocab > 0):
            raise ValueError(
                "noise and noise_vocab are both 0, or a share under 1 and a number of tokens, but"
                f" got {noise!r} and {noise_vocab!r}"
            )
        _check_halves("vocab - noise_vocab", vocab - noise_vocab)
        self.noise, self.noise_vocab = noise, noise_vocab
        self.keys = (vocab - noise_vocab) // 2
        super().__init__(vocab, self.keys, length, batch_size)

    def check_length(self, length: int) -> None:
        _check_even(length, 4)

    def texts(self, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch_size, length // 2)  # (B, P)
        keys = torch.randint(self.keys, shape, generator=generator)
        value_of = torch.randint(self.keys, (len(keys), self.keys), generator=generator) + self.keys
        is_noise = draw_uniform(shape, generator) < self.noise
        kept = torch.randint(shape[1] - 1, (len(keys), 1), generator=generator)
        is_noise = is_noise.scatter(1, kept, False)
        keys[:, -1:], is_noise[:, -1] = keys.gather(1, kept), False
        values = value_of.gather(1, keys)

        noise = torch.randint(max(self.noise_vocab, 1), (*shape, 2), generator=generator)
        pairs = torch.stack([keys, values], dim=-1)
        tokens = torch.where(is_noise[..., None], noise + 2 * self.keys, pairs).flatten(1)
        targets = torch.full_like(tokens, UNSCORED)
        is_asked = _came_before(keys, self.keys, ~is_noise) & ~is_noise
        targets[:, ::2] = torch.where(is_asked, values, UNSCORED)
        return tokens, targets


class NoisyRecall(InContextRecall):
    """``InContextRecall`` in which a share ``noise`` of the pairs is noise. Raises as it does."""

    def __init__(
        self,
        vocab: int = 32,
        length: int = 128,
        batch_size: int = 64,
        *,
        noise: float = 0.2,
        noise_vocab: int = 16,
    ) -> None:
        super().__init__(vocab, length, batch_size, noise=noise, noise_vocab=noise_vocab)


class FuzzyRecall(TextTask):
    """``InContextRecall`` with keys and values of 1 to ``longest`` tokens each, called motifs.

    Where a known key ends, name the first token of its value, and after each token of the value
    the next. The tokens of a motif differ. A text starts with a key and has ``keys`` of them, so
    that they come again. MAD draws a new key for every pair, and tests keys of the greatest length
    only. There, one of the V tokens fills texts up; here texts are cut at T, and all tokens make
    motifs. Raises ``ValueError`` for an odd ``vocab``, for motifs longer than half of it, for over
    a million motifs, and for too many keys. It refuses a T that may hold no known key.
    """

    def __init__(
        self,
        vocab: int = 16,
        length: int = 128,
        batch_size: int = 64,
        *,
        keys: int = 8,
        longest: int = 3,
    ) -> None:
        check_counts(vocab=vocab, keys=keys, longest=longest)
        _check_halves("vocab", vocab)
        half = vocab // 2
        if longest > half:
            raise ValueError(f"motifs have at most vocab / 2 = {half} tokens, but got {longest}")
        count = sum(math.perm(half, n) for n in range(1, longest + 1))
        if count > MOST_MOTIFS:
            raise ValueError(
                f"there are at most {MOST_MOTIFS:,} motifs, but vocab={vocab} and longest={longest}"
                f" make {count:,}"
            )
        self.keys, self.longest, self.half = keys, longest, half
        groups = [list(permutations(range(half), n)) for n in range(1, longest + 1)]
        self.motifs = torch.tensor([[*m, *m * longest][:longest] for g in groups for m in g])
        self.sizes = torch.tensor([len(m) for g in groups for m in g])  # (M,)
        self.weights = torch.cat([torch.full((len(g),), 1 / len(g)).double() for g in groups])
        if keys > len(self.motifs):
            raise ValueError(f"there are {len(self.motifs)} keys, but got {keys} for each text")
        super().__init__(vocab, half, length, batch_size)

    def check_length(self, length: int) -> None:
        enough = 2 * self.longest * (self.keys + 1)
        if length < enough:
            raise ValueError(
                f"T is from {enough}, so that one of {self.keys} keys comes again, but got {length}"
            )

    def texts(self, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        shape, most = (self.batch_size, self.keys), length // 2 + 1  # pairs of 2 tokens or more
        weights = self.weights.expand(self.batch_size, -1)
        keys = torch.multinomial(weights, self.keys, generator=generator)  # all different
        values = torch.multinomial(weights, self.keys, replacement=True, generator=generator)
        which = torch.randint(self.keys, (shape[0], most), generator=generator)  # (B, P)
        motifs = [motif.gather(1, which) for motif in (keys, values)]

        pieces = torch.cat([self.motifs[m] + i * self.half for i, m in enumerate(motifs)], dim=-1)
        at = torch.arange(self.longest)
        is_there = torch.cat([at < self.sizes[m][..., None] for m in motifs], dim=-1)
        is_asked = _came_before(which, self.keys)[..., None] & (pieces >= self.half)
        targets = torch.where(is_asked, pieces, UNSCORED)
        tokens, targets = _joined([pieces, targets], is_there, length + 1)
        return tokens[:, :-1], targets[:, 1:]  # the answer is the next token


class SelectiveCopying(TextTask):
    """Remember ``copies`` symbols among blanks; after the token "copy", name them in order.

    Tokens are V - 2 symbols, the blank V - 2 and "copy" V - 1. T - 1 - copies tokens are symbols
    and blanks; then come "copy" and blanks, and at each of these blanks one symbol is asked. The
    places of symbols are drawn evenly; in MAD the last symbol stands directly before "copy".
    Raises ``ValueError`` for a ``vocab`` under 3 and for a T that cannot hold the symbols twice.
    """

    def __init__(
        self, vocab: int = 16, length: int = 256, batch_size: int = 64, *, copies: int = 16
    ) -> None:
        check_counts(vocab=vocab, copies=copies)
        self.copies = copies
        if vocab < 3:
            raise ValueError(f"vocab is a symbol, the blank and copy at least, but got {vocab}")
        super().__init__(vocab, vocab - 2, length, batch_size)

    def check_length(self, length: int) -> None:
        if length < 2 * self.copies + 1:
            raise ValueError(
                f"T is from 2 x copies + 1 = {2 * self.copies + 1} tokens, but got {length}"
            )

    def texts(self, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        free = length - 1 - self.copies
        order = draw_uniform((self.batch_size, free), generator).argsort(dim=1)
        places = order[:, : self.copies].sort(dim=1).values
        symbols = torch.randint(self.vocab - 2, places.shape, generator=generator)
        tokens = torch.full((self.batch_size, length), self.vocab - 2).scatter(1, places, symbols)
        tokens[:, free] = self.vocab - 1
        targets = torch.full_like(tokens, UNSCORED)
        targets[:, free + 1 :] = symbols
        return tokens, targets


class Compression(TextTask):
    """Read T - 1 random symbols and the token "compress"; then name all symbols from the output
    there.

    "compress" is token V - 1. Targets are the symbols themselves, at their places, so ``new_model``
    makes an ``Autoencoder``: a plain model would only repeat what it reads. ``code`` is the number
    of outputs that all symbols must pass through. In MAD they are the outputs of the last layer,
    and "compress" itself is named, too.
    Raises ``ValueError`` for a ``vocab`` or a T under 2, and a ``code`` smaller than ``vocab``.
    """

    def __init__(
        self, vocab: int = 16, length: int = 32, batch_size: int = 64, *, code: int = 128
    ) -> None:
        check_counts(vocab=vocab, code=code)
        if not 2 <= vocab <= code:
            raise ValueError(f"vocab is from 2 to code = {code}, but got {vocab}")
        self.code = code
        super().__init__(vocab, vocab - 1, length, batch_size)

    def check_length(self, length: int) -> None:
        if length < 2:
            raise ValueError(f"T is one symbol and compress at least, but got {length}")

    def texts(self, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch_size, length)
        tokens = torch.randint(self.vocab - 1, shape, generator=generator)
        targets = tokens.clone()
        tokens[:, -1], targets[:, -1] = self.vocab - 1, UNSCORED
        return tokens, targets

    def new_model(self, make_model: Callable[[int], nn.Module]) -> nn.Module:
        return Autoencoder(make_model(self.code), self.code, self.vocab)


class Autoencoder(nn.Module):
    """Read a text with ``model``, and rebuild it from the C = ``code`` outputs at its last token.

    ``model`` has C tokens, of which V = ``vocab`` are used; its outputs there are the code. A small
    net maps the code and a place in the text to the symbol at that place.
    """

    def __init__(self, model: nn.Module, code: int, vocab: int) -> None:
        super().__init__()
        self.model = model
        layers = [(nn.LayerNorm(code), nn.Linear(code, code), nn.GELU()) for _ in range(2)]
        self.decoder = nn.Sequential(*sum(layers, ()), nn.LayerNorm(code), nn.Linear(code, vocab))

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return logits (B, T, V) for tokens (B, T), and the model's state."""
        outputs, state = self.model(tokens, state)
        code = outputs[:, -1:]  # (B, 1, C)
        return self.decoder(code + _places(tokens.shape[1], code)), state


class Memorisation(TextTask):
    """Read key, blank, key, blank, ...; at each blank, name the value of the key before it.

    No text gives values: each key has one value for ever, which ``seed`` draws, so the weights have
    to learn it. Keys and values are (V - 1) // 2 tokens each, and the blank is V - 1. With an even
    V one token is not used. Raises ``ValueError`` for a ``vocab`` under 3, an odd T and a ``seed``
    that PyTorch does not take.
    """

    def __init__(
        self, vocab: int = 256, length: int = 32, batch_size: int = 64, *, seed: int = 0
    ) -> None:
        check_counts(vocab=vocab)
        if vocab < 3:
            raise ValueError(f"vocab is a key, a value and a blank at least, but got {vocab}")
        check_seed(seed)
        keys = (vocab - 1) // 2
        generator = Generator().manual_seed(seed)
        self.value_of = torch.randperm(keys, generator=generator) + keys
        super().__init__(vocab, keys, length, batch_size)

    def check_length(self, length: int) -> None:
        _check_even(length, 2)

    def texts(self, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch_size, length // 2)
        keys = torch.randint(self.answers, shape, generator=generator)
        tokens = torch.stack([keys, torch.full_like(keys, self.vocab - 1)], dim=-1)
        targets = torch.stack([torch.full_like(keys, UNSCORED), self.value_of[keys]], dim=-1)
        return tokens.flatten(1), targets.flatten(1)


def _came_before(ids: Tensor, count: int, counts: Tensor | None = None) -> Tensor:
    """Tell for ids (B, P) under ``count`` which came earlier in their row, (B, P); only those of
    ``counts`` (B, P) count."""
    at = torch.arange(ids.shape[1]).expand_as(ids)
    counted = at if counts is None else torch.where(counts, at, len(at[0]))
    first = at.new_full((len(ids), count), len(at[0])).scatter_reduce(1, ids, counted, "amin")
    return first.gather(1, ids) < at


def _joined(parts: list[Tensor], is_there: Tensor, width: int) -> list[Tensor]:
    """Close the gaps of rows (B, P, N) where ``is_there`` (B, P, N) is false: (B, width)."""
    is_there = is_there.flatten(1)
    place = (is_there.cumsum(1) - 1).clamp(max=width).masked_fill(~is_there, width)
    empty = torch.zeros(len(place), width + 1, dtype=torch.int64)  # the last column is waste
    return [empty.scatter(1, place, part.flatten(1))[:, :width] for part in parts]


def _places(length: int, like: Tensor) -> Tensor:
    """Make a vector for each place of a text, (T, C): sines and cosines of many frequencies."""
    half = like.shape[-1] // 2 + 1
    rates = 10_000.0 ** -(torch.arange(half, device=like.device, dtype=like.dtype) / half)
    angles = torch.arange(length, device=like.device, dtype=like.dtype)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, : like.shape[-1]]


def _check_halves(name: str, vocab: int) -> None:
    if vocab < 2 or vocab % 2:
        raise ValueError(f"{name} is an even number from 2, half of it for keys, but got {vocab}")


def _check_even(length: int, least: int) -> None:
    if length < least or length % 2:
        raise ValueError(f"T is an even number from {least}, but got {length}")
