"""The last n tokens, looked up by a hash: what a word is, and not only its last byte.

Letters: B samples, T tokens, N sizes of n-grams, D width.
Source: hash embeddings of byte n-grams, Pagnoni et al. 2024 (arXiv 2412.09871), section 3.2.1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from nested.levels.forward import State
from nested.memory.masks import Lengths, last_tokens
from nested.memory.state import check_state

BUCKETS, WIDTH = 4096, 16  # vectors for each n, and numbers of a vector
SCALE = 0.3  # size of the first result, beside embeddings of size 1
CODE, PARTS, SIGNS = 512, 3, 256  # numbers of a code; tables of signs, and rows of a table


class NGrams(nn.Module):
    """Look up the last n tokens by a hash: vectors to add to the embedding, and codes for a memory.

        y_t = W [E_n[hash of the tokens t - n + 1 to t] for n in ``sizes``]

    Each n has 4,096 vectors, and n-grams with one hash share theirs. From the start n-grams have
    different vectors, also those of names that training never showed.

    For each n in ``coded`` the last n tokens also have a code. It is a unit vector of 512 signs
    that is not learned. Its factors are three rows, chosen by the hash of the tokens. Codes of
    different n-grams are nearly orthogonal, as keys of an ``NGramMemory`` should be.

    ``y, codes, state = ngrams(tokens, state=None)`` with tokens (B, T), y (B, T, D) and codes (B, T
    + 1, N, 512), of which codes[:, t] belongs to the tokens before token t. Without ``sizes`` y is
    0, and without ``coded`` codes are None. The state (B, max(n)) holds the last tokens, each plus
    1. A 0 means: no token yet. With ``lengths`` (B,) only the first ``lengths[b]`` tokens of sample
    b are there. Raises ``ValueError`` for the state of another layer or batch size.
    """

    def __init__(self, dim: int, sizes: tuple[int, ...], coded: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.sizes, self.coded, self.longest = sizes, coded, max(sizes + coded)
        if sizes:
            self.embed = nn.Embedding(len(sizes) * BUCKETS, WIDTH)
            self.out = nn.Linear(len(sizes) * WIDTH, dim, bias=False)
            nn.init.normal_(self.out.weight, std=SCALE / (len(sizes) * WIDTH) ** 0.5)
        # odd factors of the hash, and signs, the same in every model
        factors = torch.from_numpy(random_words(self.longest).view(np.int64) | 1)
        self.register_buffer("factors", factors, persistent=False)
        last = torch.tensor([n - 1 for n in sizes + coded])
        self.register_buffer("last", last, persistent=False)
        if coded:
            words = random_words(PARTS * SIGNS * CODE // 64).astype("<u8")
            bits = np.unpackbits(words.view(np.uint8), bitorder="little")
            signs = 2.0 * torch.from_numpy(bits).reshape(PARTS, SIGNS, CODE) - 1
            self.register_buffer("signs", signs.to(torch.get_default_dtype()), persistent=False)

    def init(self, batch_size: int) -> Tensor:
        """Make the state before the first token: zeros (B, max(n))."""
        return self.factors.new_zeros(batch_size, self.longest)

    def forward(
        self, tokens: Tensor, state: State | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Tensor | float, Tensor | None, State]:
        first = self.init(len(tokens))
        state = first if state is None else state
        check_state(state, first, "this layer of n-grams")
        text = torch.cat([state, tokens + 1], dim=1)  # (B, max(n) + T)
        hashes = self._hashes(text, tokens.shape[1] + 1)
        count = len(self.sizes)
        y = self._vectors(hashes[:, 1:, :count]) if count else 0.0
        codes = self._codes(hashes[:, :, count:]) if self.coded else None
        return y, codes, last_tokens(text, self.longest, lengths)

    def _hashes(self, text: Tensor, length: int) -> Tensor:
        """Hash the n-grams that end at the last ``length`` tokens of ``text``, for each n of
        ``sizes`` and ``coded``: (B, length, N), numbers of 24 bits."""
        newest_first = text.unfold(1, self.longest, 1)[:, -length:].flip(-1)
        sums = (newest_first * self.factors).cumsum(-1)  # of token * factor, modulo 2^64
        sums = sums[:, :, self.last]
        return (sums ^ (sums >> 32)) * self.factors[0] >> 40

    def _vectors(self, hashes: Tensor) -> Tensor:
        first = BUCKETS * torch.arange(hashes.shape[-1], device=hashes.device)
        return self.out(self.embed(hashes % BUCKETS + first).flatten(2))

    def _codes(self, hashes: Tensor) -> Tensor:
        rows = (self.signs[i][(hashes >> 8 * i) % SIGNS] for i in range(PARTS))
        return math.prod(rows) / CODE**0.5


def random_words(count: int) -> np.ndarray:
    """Draw the first ``count`` numbers of 64 bits, (count,), of splitmix64 with seed 0: the same in
    every version of every library. Source: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom
    Number Generators"."""
    words = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
