"""Gates: bounded numbers by which a memory decides how much to write and how much to keep.

Source: gates as sigmoids, Hochreiter and Schmidhuber 1997. Here the sigmoid works in log space, so
that a gate near 1e-4 has a slope like any other gate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nested.memory.net import widened
from nested.support.checks import check_counts


class Gate(nn.Module):
    """Map any number to one between ``low`` and ``top``:

        gate = low^(1 - s) top^s,   s = sigmoid(raw + offset + shift).

    Raw numbers (...) come in and gates (...) go out, in float32 at least; a float gives (1,). The
    shift is set so that a sum of 0 gives ``start``. The parameter ``offset`` (size,) starts at 0,
    so weight decay pulls a gate back to its start. There is one offset for each of the last
    dimension of ``raw``, or one for all. The bounds are settings and are not saved with a model.
    Raises ``ValueError`` unless 0 < low < start < top < infinity, and for a ``size`` under 1.
    """

    def __init__(self, low: float, start: float, top: float, size: int = 1) -> None:
        super().__init__()
        if not 0 < low < start < top < math.inf:
            raise ValueError(
                f"a gate has 0 < low < start < top < inf, but got {low}, {start}, {top}"
            )
        self.top, self.span = top, math.log(top / low)
        self.shift, self.offset = _logit(math.log(start / low) / self.span), _offset(size)

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
        return self.span * (torch.sigmoid(raw + widened(self.offset) + self.shift) - 1)

    def extra_repr(self) -> str:
        low = self.top * math.exp(-self.span)
        return f"low={low:.3g}, top={self.top:.3g}" if self.top else "shut"

    def shut(self) -> None:
        """Return 0 from now on, for every input."""
        self.top = 0.0


class HardGate(nn.Module):
    """Map any number to one from 0 to ``top``, both included:

        gate = top (3 s - 1/2) / 2, cut at 0 and top,    s = sigmoid(3 (raw + offset) + shift).

    A state that has to last needs exact ends. A write at rate n scales what a memory holds at its
    key by 1 - n, so a rate of 2 reflects it. At 1.98, half of the state is gone after 34
    reflections.

    In training mode the backward pass takes the slope of the sigmoid without the cut
    (straight-through). So a gate near its end can leave it again: with a slope of 0 there, a rate
    of 0 would stay 0 for ever. In evaluation mode slopes are those of the equation.

    Raw numbers (...) come in and gates (...) go out, in float32 at least; a float gives (1,). The
    shift is set so that a sum of 0 gives ``start``, and the parameter ``offset`` (size,) starts at
    0, as in ``Gate``.
    Source: stretched and cut sigmoids, Louizos et al. 2018 (arXiv 1712.01312); straight-through
    slopes, Bengio et al. 2013 (arXiv 1308.3432). Raises ``ValueError`` unless 0 < start < top <
    infinity, and for a ``size`` under 1.
    """

    def __init__(self, start: float, top: float, size: int = 1) -> None:
        super().__init__()
        if not 0 < start < top < math.inf:
            raise ValueError(f"a gate has 0 < start < top < inf, but got {start}, {top}")
        self.top, self.shift, self.offset = top, _logit((start / top + 0.25) / 1.5), _offset(size)

    def forward(self, raw: Tensor | float) -> Tensor:
        raw = widened(raw) if isinstance(raw, Tensor) else raw
        smooth = 1.5 * torch.sigmoid(3 * (raw + widened(self.offset)) + self.shift) - 0.25
        if not self.training:
            return self.top * smooth.clamp(0, 1)
        # the difference is 0, exactly: it adds a slope and no value
        return self.top * (smooth.detach().clamp(0, 1) + (smooth - smooth.detach()))

    def extra_repr(self) -> str:
        return f"top={self.top:g}" if self.top else "shut"

    def shut(self) -> None:
        """Return 0 from now on, for every input."""
        self.top = 0.0


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _offset(size: int) -> nn.Parameter:
    check_counts(size=size)
    return nn.Parameter(torch.zeros(size))


def shut(module: nn.Module) -> None:
    """Shut every gate in ``module``, in place. Its memories can then be read but not written; a
    module without gates stays as it is."""
    for part in module.modules():
        if callable(getattr(part, "shut", None)):
            part.shut()
