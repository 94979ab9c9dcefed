"""Softmax attention over all tokens so far: a memory that forgets nothing.

Letters: B samples, T tokens, P tokens before them, D width, H heads, E = D / H.
Source: Vaswani et al. 2017 (arXiv 1706.03762); rotary positions: Su et al. 2021 (arXiv 2104.09864).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nested.levels.forward import State
from nested.memory.level import Level, count_parameters
from nested.memory.state import check_gathered, check_state


class Attention(nn.Module):
    """Causal attention with rotary positions.

    ``y, state = attention(x, state)`` with x and y (B, T, D). The state is the KV cache, {"keys",
    "values": (B, H, P, E)}, and grows by T tokens. ``unroll`` can differentiate this layer twice.
    Elsewhere a second derivative needs ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``. Raises
    ``ValueError`` for the state of another layer or batch size.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.out = (nn.Linear(dim, n * dim, bias=False) for n in (3, 1))

    def extra_repr(self) -> str:
        return f"dim={self.out.in_features}, heads={self.heads}"

    def describe(self) -> list[Level]:
        """Describe the layer as one level. Its name is empty: the block names the part."""
        numbers = f"{2 * self.out.in_features:,} a token"
        return [Level("", numbers, "keys and values, all kept", 1, count_parameters(self))]

    def init(self, batch_size: int) -> State:
        """Make the state before the first token, {"keys", "values": (B, H, 0, E)}. Raises
        ``ValueError`` if FSDP2 has sharded the weights."""
        size = self.out.in_features // self.heads
        empty = self.out.weight.new_zeros(batch_size, self.heads, 0, size)
        check_gathered(empty, "this attention")
        return {"keys": empty, "values": empty}

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.init(len(x)) if state is None else state
        self._check(state, len(x))
        split = self.project(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, H, E)
        split = split.permute(2, 0, 3, 1, 4)  # (3, B, H, T, E)
        past, length = state["keys"].shape[2], x.shape[1]
        (queries, keys), values = rotate(split[:2], past), split[2]
        keys = torch.cat([state["keys"], keys], dim=2)  # (B, H, P + T, E)
        values = torch.cat([state["values"], values], dim=2)
        mask = None
        if past and length > 1:
            mask = x.new_ones(length, past + length, dtype=torch.bool).tril(past)
        y = scaled_dot_product_attention(queries, keys, values, mask, is_causal=bool(past == 0))
        return self.out(y.transpose(1, 2).flatten(2)), {"keys": keys, "values": values}

    def _check(self, state: State, batch_size: int) -> None:
        like = self.init(batch_size)
        if isinstance(state, dict) and isinstance(state.get("keys"), Tensor):
            # keys may hold any number of tokens, and values must hold the same number
            past = state["keys"].shape[2] if state["keys"].dim() > 2 else 1
            like = {name: x.new_empty(*x.shape[:2], past, x.shape[3]) for name, x in like.items()}
        check_state(state, like, "this attention")


def rotate(x: Tensor, past: int) -> Tensor:
    """Rotate each pair (i, i + E / 2) of x (..., T, E) by the angle position x 10000^(-2i / E).

    The first token has the position ``past``.
    """
    half = x.shape[-1] // 2
    cos, sin = (part.to(x.dtype) for part in _cos_and_sin(x, past, half))  # (T, E / 2)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _cos_and_sin(x: Tensor, past: int, half: int) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines (T, E / 2) of all angles, exact at positions under 2^31."""
    positions = torch.arange(past, past + x.shape[-2], device=x.device)[:, None]
    if x.dtype == torch.float64:
        angles = positions * x.new_tensor(speeds(half))
        return angles.cos(), angles.sin()
    # Apple's GPUs lack float64: integers count turns in units of 2^-31, and wrap around exactly
    high, low = torch.tensor(turns(half), device=x.device).unbind()
    turned = positions * high + (positions * low >> 31) + 2**28
    quarter = turned >> 29
    angles = ((turned & 2**29 - 1) - 2**28).float() * (2 * math.pi / 2**31)  # within pi / 4
    cos, sin, sign = angles.cos(), angles.sin(), 1 - (quarter & 2)
    is_odd = (quarter & 1).bool()
    return sign * torch.where(is_odd, -sin, cos), sign * torch.where(is_odd, cos, sin)


@cache
def speeds(half: int) -> list[float]:
    """List the angle per token of each pair: 10000^(-i / ``half``)."""
    return [10000 ** (-i / half) for i in range(half)]


@cache
def turns(half: int) -> list[list[int]]:
    """List ``speeds`` as fractions of a turn in units of 2^-62: the upper 31 bits, the lower 31."""
    fractions = [round(speed / (2 * math.pi) * 2**62) for speed in speeds(half)]
    return [[turn >> 31 for turn in fractions], [turn & 2**31 - 1 for turn in fractions]]
