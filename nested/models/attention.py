"""Softmax attention over all tokens so far: a memory that forgets nothing.

Letters: B samples, T tokens, P tokens before them, D width, H heads, E = D / H.
Source: Vaswani et al. 2017 (arXiv 1706.03762); rotary positions: Su et al. 2021 (arXiv 2104.09864).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from nested.levels.forward import State
from nested.memory.level import Level, count_parameters
from nested.memory.masks import Lengths, is_traced, later, present_tokens, without_padding
from nested.memory.state import check_gathered, check_state


class Attention(nn.Module):
    """Causal attention with rotary positions.

    ``y, state = attention(x, state)`` with x and y (B, T, D). The state is the KV cache {"keys",
    "values": (B, H, P, E)}, with {"position": (B,)}, the number of tokens that each sample has
    there. It grows by T tokens. With ``keys`` (B, T, D) the keys are made from these vectors, and
    all else from x. With ``lengths`` (B,) only the first ``lengths[b]`` tokens of
    sample b are there. Attention keeps every token, so it ignores ``write``. ``unroll`` can
    differentiate this layer twice. Elsewhere a second derivative needs
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``. Raises ``ValueError`` for the state of
    another layer or batch size.
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
        """Make the state before the first token, an empty cache. Raises ``ValueError`` if FSDP2 has
        sharded the weights."""
        size = self.out.in_features // self.heads
        empty = self.out.weight.new_zeros(batch_size, self.heads, 0, size)
        check_gathered(empty, "this attention")
        position = torch.zeros(batch_size, dtype=torch.int64)
        return {"keys": empty, "values": empty, "position": position}

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        keys: Tensor | None = None,
        lengths: Lengths | None = None,
        write: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        is_new = state is None
        state = self.init(len(x)) if is_new else state
        self._check(state, len(x))
        present = present_tokens(x, lengths)
        queries, keys, values = self._project(x, keys, present)
        position, past, length = state["position"], state["keys"].shape[2], x.shape[1]
        is_even = is_new or not (is_traced() or (position != past).any())
        if present is None and is_even:  # all samples have as many tokens
            slots = torch.arange(past, past + length, device=x.device)
            queries, keys = rotate(torch.stack([queries, keys]), slots)
            keys = torch.cat([state["keys"], keys], dim=2)  # (B, H, P + T, E)
            values = torch.cat([state["values"], values], dim=2)
            mask = None
            if past and length > 1:
                mask = x.new_ones(length, past + length, dtype=torch.bool).tril(past)
            position = position + length
        else:
            slots = position.to(x.device)[:, None] + torch.arange(length, device=x.device)  # (B, T)
            queries, keys = rotate(torch.stack([queries, keys]), slots[:, None])
            keys = _placed(state["keys"], keys, slots, present)
            values = _placed(state["values"], values, slots, present)
            mask = torch.arange(past + length, device=x.device) <= slots[..., None]
            mask = mask[:, None]  # (B, 1, T, P + T)
            position = later(position, length, present)
        y = scaled_dot_product_attention(
            queries, keys, values, mask, is_causal=bool(past == 0 and mask is None)
        )
        if not is_traced():  # no slot that is empty in all samples
            keys, values = (kept[:, :, : position.max()] for kept in (keys, values))
        after = {"keys": keys, "values": values, "position": position}
        return self.out(y.transpose(1, 2).flatten(2)), after

    def _project(
        self, x: Tensor, keys: Tensor | None, present: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Compute queries, keys and values of x (B, T, D), (B, H, T, E) each."""
        x = without_padding(x, present)
        if keys is None:
            parts = self.project(x).chunk(3, dim=-1)
        else:
            inputs = x, without_padding(keys, present), x
            parts = map(linear, inputs, self.project.weight.chunk(3))
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)

    def _check(self, state: State, batch_size: int) -> None:
        like = self.init(batch_size)
        if isinstance(state, dict) and isinstance(state.get("keys"), Tensor):
            # keys may hold any number of tokens, and values must hold the same number
            past = state["keys"].shape[2] if state["keys"].dim() > 2 else 1
            for name in ("keys", "values"):
                batch, heads, _, size = like[name].shape
                like[name] = like[name].new_empty(batch, heads, past, size)
        check_state(state, like, "this attention")


def _placed(cache: Tensor, x: Tensor, slots: Tensor, present: Tensor | None) -> Tensor:
    """Put x (B, H, T, E) into the ``slots`` (B, T) of a ``cache`` (B, H, P, E) made longer by T.

    What is not ``present`` (B, T) becomes 0."""
    if present is not None:
        x = x.masked_fill(~present[:, None, :, None], 0)
    longer = torch.cat([cache, torch.zeros_like(x)], dim=2)
    return longer.scatter(2, slots[:, None, :, None].expand_as(x), x)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate each pair (i, i + E / 2) of x (..., T, E) by the angle position x 10000^(-2i / E).

    The tokens have these whole ``positions`` (..., T).
    """
    half = x.shape[-1] // 2
    cos, sin = (part.to(x.dtype) for part in _cos_and_sin(x, positions[..., None], half))
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _cos_and_sin(x: Tensor, positions: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines (..., T, E / 2) of all angles, exact at positions under 2^31."""
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
