"""The Transformer, the baseline for every memory here.

Letters: B samples, T tokens, D width.
Source: Vaswani et al. 2017 (arXiv 1706.03762), pre-norm, with rotary positions and GELU.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from nested.levels.forward import State
from nested.memory.masks import Lengths
from nested.models.attention import Attention
from nested.models.config import ModelConfig
from nested.models.model import Block, SequenceModel, dense_net


class Transformer(SequenceModel):
    """A model whose blocks hold attention and a net with 4 D hidden units.

    ``logits, state = model(tokens, state=None)``, tokens (B, T), logits (B, T, V), as
    ``SequenceModel``. Ignores what ``config`` says of mixers and memories.
    """

    def __init__(self, config: ModelConfig) -> None:
        config = replace(config, recall=())
        super().__init__(config, [TransformerBlock(config) for _ in range(config.layers)])


class TransformerBlock(Block):
    """x <- x + attention(norm(x)), x <- x + net(norm(x)): x (B, T, D)."""

    parts = ("attention",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.before_attention, self.before_net = (nn.LayerNorm(dim, bias=False) for _ in range(2))
        self.attention = Attention(dim, config.heads)
        self.net = dense_net(dim, 4 * dim)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Lengths | None = None,
        write: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        state, y = self.states(state), self.before_attention(x)
        y, attention = self.attention(y, state["attention"], lengths=lengths)
        x = x + y
        return x + self.net(self.before_net(x)), {"attention": attention}
