"""A causal convolution: each channel adds a weighted sum of its last few tokens.

Letters: B samples, T tokens, D width, S taps.
Source: Behrouz et al. 2025 (arXiv 2512.24695), section 8 (width 4), as in Mamba and others; the
first weights shift tokens as in RWKV, Peng et al. 2023 (arXiv 2305.13048).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nested.levels.forward import State
from nested.memory.level import Level, count_parameters
from nested.memory.masks import Lengths, last_tokens
from nested.memory.state import check_gathered, check_state, count_numbers


class Convolution(nn.Module):
    """Compute y_t = x_t + w_1 x_(t - S + 1) + ... + w_S x_t in each channel.

    The weights ``mix`` (S, D) start so that one channel of every ``shift_every`` carries the token
    before, and all others the token itself. With None all carry the token itself. From the token
    before, recall is learned fast: a key is seen beside its value. No neighbour is mixed into the
    other channels, so a memory can track a state over long texts. Where keys of one token differ
    with its neighbours, every write moves the state a little. Weight decay pulls ``mix`` to zero,
    and so removes the neighbours that nothing needs.

    ``y, state = convolution(x, state)`` with x and y (B, T, D). The state holds the last tokens,
    (B, S - 1, D), and zeros before the first one. With ``lengths`` (B,) only the first
    ``lengths[b]`` tokens of sample b are there. Raises ``ValueError`` for the state of another
    layer or batch size.
    """

    def __init__(self, dim: int, taps: int = 4, *, shift_every: int | None = 4) -> None:
        super().__init__()
        mix = torch.zeros(taps, dim)
        if taps > 1 and shift_every:  # in some channels, start as the token before
            mix[-2, ::shift_every], mix[-1, ::shift_every] = 1.0, -1.0
        self.mix = nn.Parameter(mix)

    def extra_repr(self) -> str:
        return f"dim={self.mix.shape[1]}, taps={len(self.mix)}"

    def describe(self) -> list[Level]:
        """Describe the layer as one level. Its name is empty: the block names the part."""
        numbers, sees = count_numbers(self.init(1)), f"the last {len(self.mix)} tokens"
        return [Level("", f"{numbers:,}", sees, 1, count_parameters(self))]

    def init(self, batch_size: int) -> State:
        """Make the state before the first token, zeros (B, S - 1, D). Raises ``ValueError`` if
        FSDP2 has sharded the weights."""
        taps, dim = self.mix.shape
        first = self.mix.new_zeros(batch_size, taps - 1, dim)
        check_gathered(first, "this convolution")
        return first

    def forward(
        self, x: Tensor, state: State | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Tensor, State]:
        state = self.init(len(x)) if state is None else state
        check_state(state, self.init(len(x)), "this convolution")
        tokens, length = torch.cat([state, x], dim=1), x.shape[1]  # (B, S - 1 + T, D)
        *earlier, last = self.mix
        y = sum((tokens[:, s : s + length] * w for s, w in enumerate(earlier)), x * (1 + last))
        return y, last_tokens(tokens, state.shape[1], lengths)
