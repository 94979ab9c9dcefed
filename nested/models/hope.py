"""HOPE: a memory that learns while it reads, followed by a continuum of slower memories.

Letters: B samples, T tokens, D width.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 94-97. Hope-attention has softmax attention in
place of the first memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nested.levels.forward import State
from nested.memory.continuum import ContinuumMemory
from nested.memory.masks import Lengths, check_mask
from nested.memory.ngram_memory import NGramMemory
from nested.memory.short_texts import warn_of_short_texts
from nested.models.config import ModelConfig
from nested.models.convolution import Convolution
from nested.models.mixers import MIXERS
from nested.models.model import Block, SequenceModel, check_text, dense_net
from nested.models.ngrams import CODE

PIECE = 256  # tokens read at a time: they stay in the cache from layer to layer


class Hope(SequenceModel):
    """A model whose blocks hold causal convolutions, the ``mixer`` of ``config`` and a continuum
    memory.

    ``logits, state = model(tokens, state=None)``, tokens (B, T), logits (B, T, V), as
    ``SequenceModel``. The size of the state is constant, except with the mixer "attention".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, [HopeBlock(config.for_block(i)) for i in range(config.layers)])

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        lengths: Lengths | None = None,
        write: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        if torch.compiler.is_compiling():  # pieces do not help compiled code
            return super().forward(tokens, state, lengths=lengths, write=write)
        present = check_text(tokens, self.config.vocab, lengths)
        check_mask(tokens, write)
        # pieces do not help attention either
        size = tokens.shape[1] if "attention" in self.config.mixer else PIECE
        is_new, outputs = state is None, []
        for at in range(0, tokens.shape[1], size):
            piece = slice(at, at + size)
            left = None if present is None else present[:, piece].sum(1)
            mask = None if write is None else write[:, piece]
            logits, state = super().forward(tokens[:, piece], state, lengths=left, write=mask)
            outputs.append(logits)
        logits = torch.cat(outputs, dim=1)
        if torch.is_grad_enabled():
            warn_of_short_texts(self, logits, tokens.shape[1], is_new)
        return logits, state


class HopeBlock(Block):
    """x <- x + W norm(mixer(convolution(norm(x)))), x <- x + continuum(norm(x)): x (B, T, D).

    A mixer makes the keys from a second convolution, ``key_shift``. In half of its channels that
    one starts as the token before, so that a memory binds each token to what it follows. Queries
    start as keys do, so that recall is learned fast. A block with several writes a token tracks a
    state: each token moves the state in its own way, whatever stood before it. So keys start as the
    token alone there. With ``hidden`` over 0 in its config, x <- x + net(norm(x)) follows, as in a
    Transformer. With ``recall`` in its config, x <- x + recall(norm(x)) comes first, an
    ``NGramMemory`` that takes the ``codes`` of n-grams.
    """

    parts = ("convolution", "key_shift", "mixer", "continuum")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, cut = config.dim, config.detach_every
        if config.recall:
            self.parts, count = ("recall", *self.parts), len(config.recall)
            self.before_recall = nn.LayerNorm(dim, bias=False)
            self.recall = NGramMemory(dim, count, CODE, config.chunk, detach_every=cut)
            self.recall._is_part = True
        self.before_mixer, self.after_mixer, self.before_continuum = (
            nn.LayerNorm(dim, bias=False) for _ in range(3)
        )
        self.convolution = Convolution(dim)
        shift_every = 2 if config.products == 1 else None
        self.key_shift = Convolution(dim, taps=2, shift_every=shift_every)
        self.mixer = MIXERS[config.mixer].build(config)
        self.out = nn.Linear(dim, dim, bias=False)
        self.continuum = ContinuumMemory(dim, config.periods, detach_every=cut)
        self.mixer._is_part = self.continuum._is_part = True
        self.net: nn.Module | None = None
        if config.hidden:
            self.before_net = nn.LayerNorm(dim, bias=False)
            self.net = dense_net(dim, config.hidden * dim)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Lengths | None = None,
        write: Tensor | None = None,
        codes: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        state, masks, after = self.states(state), {"lengths": lengths, "write": write}, {}
        if "recall" in self.parts:
            y = self.before_recall(x)
            y, after["recall"] = self.recall(y, state["recall"], keys=codes, **masks)
            x = x + y
        y, convolution = self.convolution(
            self.before_mixer(x), state["convolution"], lengths=lengths
        )
        keys, key_shift = self.key_shift(y, state["key_shift"], lengths=lengths)
        y, mixer = self.mixer(y, state["mixer"], keys=keys, **masks)
        x = x + self.out(self.after_mixer(y))
        y, continuum = self.continuum(self.before_continuum(x), state["continuum"], **masks)
        x = x + y
        if self.net is not None:
            x = x + self.net(self.before_net(x))
        after |= {"convolution": convolution, "key_shift": key_shift}
        return x, {**after, "mixer": mixer, "continuum": continuum}
