"""Gates: bounded numbers by which a memory decides how much to write and how much to keep.

Source: a sigmoid in log space, so that a gate near 1e-4 has a slope like any other gate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nested.memory.net import widened


class Gate(nn.Module):
    """Map any number to one between ``low`` and ``top``:

        gate = low^(1 - s) top^s,   s = sigmoid(raw + bias).

    Raw numbers (...) come in and gates (...) go out, in float32 at least; a float gives (1,). The
    parameter ``bias`` (1,) starts so that ``raw`` = 0 gives ``start``. With ``size`` gates it is
    (size,), one for each of the last dimension of ``raw``. The bounds are settings and are not
    saved with a model. Raises ``ValueError`` unless 0 < low < start < top.
    """

    def __init__(self, low: float, start: float, top: float, size: int = 1) -> None:
        super().__init__()
        if not 0 < low < start < top:
            raise ValueError(f"a gate has 0 < low < start < top, but got {low}, {start}, {top}")
        self.top, self.span = top, math.log(top / low)
        s = math.log(start / low) / self.span
        self.bias = nn.Parameter(torch.full((size,), math.log(s / (1 - s))))

    def forward(self, raw: Tensor | float) -> Tensor:
        return self.top * torch.exp(self._log_below_top(raw))

    def log(self, raw: Tensor | float) -> Tensor:
        """Compute log(gate) (...) for raw numbers (...). It is -inf once the gate is shut."""
        return self._log_below_top(raw) + (math.log(self.top) if self.top else -math.inf)

    def log_rest(self, raw: Tensor | float) -> Tensor:
        """Compute log(1 - gate) (...) for raw numbers (...). Where a gate is 1 this is -inf, with a
        slope of 0."""
        gate = self(raw)
        if self.top < 1:
            return torch.log1p(-gate)
        is_one = gate == 1
        return torch.log1p(-gate.masked_fill(is_one, 0)).masked_fill(is_one, -math.inf)

    def _log_below_top(self, raw: Tensor | float) -> Tensor:
        """log(gate / top) = (s - 1) log(top / low)."""
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
        """Return 0 from now on, for every input."""
        self.top = 0.0


class ReflectingRate(nn.Module):
    """Map any number to a rate from 0 to ``top``, both included:

        rate = top (3 s - 1/2) / 2, cut at 0 and top,    s = sigmoid(3 (raw + offset)).

    A write at rate n scales what a memory holds at its key by 1 - 2 n / top: it keeps at 0 and
    reflects at the top. Only exact ends keep a state for ever: at 0.99 of the top, half of it is
    gone after 34 reflections. Raw numbers (...) come in and rates (...) go out, in float32 at
    least. The parameter ``offset`` (size,) starts at 0: then ``raw`` = 0 gives top / 2.
    """

    def __init__(self, top: float = 2.0, size: int = 1) -> None:
        super().__init__()
        self.top, self.offset = top, nn.Parameter(torch.zeros(size))

    def forward(self, raw: Tensor) -> Tensor:
        s = torch.sigmoid(3 * (widened(raw) + widened(self.offset)))
        return self.top * (1.5 * s - 0.25).clamp(0, 1)

    def extra_repr(self) -> str:
        return f"top={self.top:g}" if self.top else "shut"

    def shut(self) -> None:
        """Return 0 from now on, for every input."""
        self.top = 0.0


def shut(module: nn.Module) -> None:
    """Shut every gate in ``module``, in place. Its memories can then be read but not written; a
    module without gates stays as it is."""
    for part in module.modules():
        if callable(getattr(part, "shut", None)):
            part.shut()
