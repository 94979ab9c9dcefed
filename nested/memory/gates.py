"""How much to write and how much to keep: numbers that a memory decides itself, bounded.

Source: a sigmoid in log space, so that a gate that starts at 1e-4 has a slope like any other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nested.memory.net import widened


class Gate(nn.Module):
    """A number between ``low`` and ``top``: ``low^(1 - s) top^s`` with ``s = sigmoid(raw + bias)``.

    Raw numbers (...) of any size come in, gates (...) go out, in float32 at least; a single number
    gives (1,). At ``raw`` = 0 a gate is ``start``, until ``bias`` (1,), a parameter, has learned
    better. Bounds are settings, no part of a saved model. Raises ``ValueError`` unless 0 < low <
    start < top."""

    def __init__(self, low: float, start: float, top: float) -> None:
        super().__init__()
        if not 0 < low < start < top:
            raise ValueError(f"a gate has 0 < low < start < top, but got {low}, {start}, {top}")
        self.top, self.span = top, math.log(top / low)
        share = math.log(start / low) / self.span
        self.bias = nn.Parameter(torch.tensor([math.log(share / (1 - share))]))

    def forward(self, raw: Tensor | float) -> Tensor:
        return self.top * torch.exp(self._below_top(raw))

    def log(self, raw: Tensor | float) -> Tensor:
        """The logarithms (...) of the gates of raw numbers (...): -inf once the gate is shut."""
        return self._below_top(raw) + (math.log(self.top) if self.top else -math.inf)

    def log_rest(self, raw: Tensor | float) -> Tensor:
        """log(1 - gate) (...) of raw numbers (...): -inf with a slope of 0 where a gate is 1."""
        gate = self(raw)
        if self.top < 1:
            return torch.log1p(-gate)
        is_one = gate == 1
        return torch.log1p(-gate.masked_fill(is_one, 0)).masked_fill(is_one, -math.inf)

    def _below_top(self, raw: Tensor | float) -> Tensor:
        raw = widened(raw) if isinstance(raw, Tensor) else raw
        return self.span * (torch.sigmoid(raw + widened(self.bias)) - 1)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        bias = state_dict.get(prefix + "bias")
        if isinstance(bias, Tensor) and bias.dim() == 0:  # saved before fully_shard was supported
            state_dict[prefix + "bias"] = bias.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        low = self.top * math.exp(-self.span)
        return f"low={low:.3g}, top={self.top:.3g}" if self.top else "shut"

    def shut(self) -> None:
        """From now on give 0, whatever comes."""
        self.top = 0.0


def shut(module: nn.Module) -> None:
    """Shut every gate in ``module``, in place: what it remembers stays as it is, and it reads what
    it was given. Raises nothing, also where there is no gate."""
    for part in module.modules():
        if callable(getattr(part, "shut", None)):
            part.shut()
