"""Vectors of the last n tokens, looked up by a hash: what a word is, not only its last byte.

Letters: B samples, T tokens, N sizes of n-grams, D width.
Source: hash embeddings of byte n-grams, Pagnoni et al. 2024 (arXiv 2412.09871), section 3.2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nested.levels.forward import State
from nested.memory.masks import Lengths, last_tokens
from nested.memory.state import check_state

BUCKETS, WIDTH = 4096, 16  # vectors for each n, and numbers of a vector
SCALE = 0.3  # size of the first result, beside embeddings of size 1


class NGrams(nn.Module):
    """Compute y_t = W [E_n[hash of the tokens t - n + 1 to t] for n in ``sizes``].

    Each n has 4,096 vectors, and n-grams with one hash share theirs. From the start n-grams have
    different vectors, so a memory can bind a value to a name that training never showed.

    ``y, state = ngrams(tokens, state=None)`` with tokens (B, T) and y (B, T, D). The state
    (B, max(n) - 1) holds the last tokens, each plus 1. A 0 means: no token yet. With ``lengths``
    (B,) only the first ``lengths[b]`` tokens of sample b are there. Raises ``ValueError`` for the
    state of another layer or batch size.
    """

    def __init__(self, dim: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed = nn.Embedding(len(sizes) * BUCKETS, WIDTH)
        self.out = nn.Linear(len(sizes) * WIDTH, dim, bias=False)
        nn.init.normal_(self.out.weight, std=SCALE / (len(sizes) * WIDTH) ** 0.5)
        # odd factors of the hash, the same in every model
        generator = torch.Generator().manual_seed(0)
        factors = 2 * torch.randint(2**62, (max(sizes),), generator=generator) + 1
        self.register_buffer("factors", factors, persistent=False)

    def init(self, batch_size: int) -> Tensor:
        """Make the state before the first token: zeros (B, max(n) - 1)."""
        return self.factors.new_zeros(batch_size, max(self.sizes) - 1)

    def forward(
        self, tokens: Tensor, state: State | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Tensor, State]:
        first, length = self.init(len(tokens)), tokens.shape[1]
        state = first if state is None else state
        check_state(state, first, "this layer of n-grams")
        text = torch.cat([state, tokens + 1], dim=1)  # (B, max(n) - 1 + T)
        y = self.out(self.embed(self._buckets(text, length)).flatten(2))
        return y, last_tokens(text, state.shape[1], lengths)

    def _buckets(self, text: Tensor, length: int) -> Tensor:
        """Hash each n-gram of the last ``length`` tokens of ``text`` to its row, (B, T, N)."""
        total, buckets = 0, {}
        for back, factor in enumerate(self.factors):  # sum of token * factor, modulo 2^64
            end = text.shape[1] - back
            total = total + text[:, end - length : end] * factor
            buckets[back + 1] = ((total ^ (total >> 32)) * self.factors[0] >> 40) % BUCKETS
        return torch.stack([buckets[n] + i * BUCKETS for i, n in enumerate(self.sizes)], dim=-1)
