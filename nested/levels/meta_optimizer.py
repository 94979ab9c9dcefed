"""Level 4: a small net that decides, at every inner step, how levels 2 and 3 move.

State: its weights.  It sees: the context of each inner step.  Clock: it acts at every batch;
meta-training moves its weights every K batches.
Source: Daniel et al. 2016 (step size controllers), learned by hypergradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nested.levels.context import FEATURES, context_vector
from nested.levels.forward import Params, State
from nested.levels.momentum import momentum_step
from nested.levels.rule import Step, UpdateRule
from nested.levels.slow_weights import slow_weights_step

START_LR, START_MOMENTUM = 0.1, 0.5
LARGEST_FEATURE = 4.0  # no feature enters the net as a larger number


class MetaOptimizer(UpdateRule):
    """Momentum SGD whose learning rate and momentum a net chooses at each step.

    ``hidden`` tanh units see the features in ``context``: names in ``levels.context.FEATURES``, or
    functions as described there. A sigmoid bounds both outputs *inside* ``lr_range`` (> 0, in log
    space) and ``momentum_range`` (within [0, 1)). So no input can leave the ranges, and both
    outputs have a gradient from the first step.

    An untrained rule chooses lr = 0.1 and momentum = 0.5. If that is near an end of the allowed
    range, it starts a tenth of the range away from the end. Pass ``generator`` for a random
    initialisation; the default is fixed.

    Signals: ``lr`` and ``momentum``, (). If the loss is not finite, both are at the low end of
    their range. State: ``momentum``, a buffer named as the params, and ``step``, a count from 0.

    Raises ``ValueError`` for a width or feature that is not allowed, and for a range that is too
    narrow for float32. An lr range must span 10 %, a momentum range 0.01.
    """

    takes_tasks = True

    def __init__(
        self,
        hidden: int = 16,
        lr_range: tuple[float, float] = (1e-3, 10.0),
        momentum_range: tuple[float, float] = (0.0, 0.99),
        context: tuple[str | Callable, ...] = tuple(FEATURES),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check(hidden, lr_range, momentum_range, context)
        self.hidden, self.context = hidden, tuple(context)
        self.lr_range, self.momentum_range = tuple(lr_range), tuple(momentum_range)
        scales = [FEATURES[f][1:] if isinstance(f, str) else (0.0, 1.0) for f in self.context]
        spans = [_inside(*map(math.log, lr_range)), _inside(*momentum_range)]
        (centre, width), (low, span) = (_constant(rows).unbind(1) for rows in (scales, spans))
        buffers = {"centre": centre, "width": LARGEST_FEATURE * width, "low": low, "span": span}
        for name, values in buffers.items():
            self.register_buffer(name, values, persistent=False)
        self.net = nn.Sequential(nn.Linear(len(context), hidden), nn.Tanh(), nn.Linear(hidden, 2))
        self._start(generator or torch.Generator().manual_seed(0))

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        first, _, last = self.net
        # the last layer's weights are small: the outputs start nearly constant
        for p, end in ((first.weight, 1.0), (first.bias, 1.0), (last.weight, 0.1)):
            drawn = torch.empty(p.shape, dtype=torch.float32)
            p.copy_(drawn.uniform_(-end, end, generator=generator))
        first.weight.div_(math.sqrt(len(self.context)))
        share = (_constant([math.log(START_LR), START_MOMENTUM]) - self.low) / self.span
        last.bias.copy_(torch.logit(share.clamp(0.1, 0.9)))

    def init(self, params: Params) -> State:
        momentum = {name: torch.zeros_like(p) for name, p in params.items()}
        first = next(iter(momentum.values()))
        wide = torch.promote_types(first.dtype, torch.float32)  # half precision cannot count far
        return {"momentum": momentum, "step": first.new_zeros((), dtype=wide)}

    def signals(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Choose (lr, momentum), (...) each, for ``context`` (..., F), in the order of
        ``self.context``. A row that is not finite gets the low ends of both ranges."""
        is_finite = torch.isfinite(context).all(-1, keepdim=True)
        x = torch.where(is_finite, context, self.centre)
        x = LARGEST_FEATURE * torch.tanh((x - self.centre) / self.width)
        first, tanh, last = self.net
        share = torch.sigmoid(_affine(last, tanh(_affine(first, x.to(first.weight.dtype)))))
        share = share.to(context.dtype) * is_finite
        log_lr, momentum = torch.addcmul(self.low, self.span, share).unbind(-1)  # low + span share
        return log_lr.exp(), momentum

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        buffer, step = state["momentum"], state["step"]
        context = context_vector(  # (F,)
            self.context, loss=loss, step=step, params=params, grads=grads, buffer=buffer
        )
        context = torch.where(torch.isfinite(loss).unsqueeze(-1), context, torch.nan)
        lr, momentum = self.signals(context)
        buffer = momentum_step(buffer, grads, momentum)
        params = slow_weights_step(params, buffer, lr)
        return Step(
            params, {"momentum": buffer, "step": step + 1}, {"lr": lr, "momentum": momentum}
        )


def _constant(numbers: list) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)  # whatever the default dtype is


def _affine(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer itself, a tenth of an inner step faster for one vector x (F,)."""
    return torch.addmv(layer.bias, layer.weight, x) if x.dim() == 1 else layer(x)


def _inside(low: float, high: float) -> tuple[float, float]:
    margin = 1e-3 * (high - low)  # kept free at either end, so that rounding cannot leave the range
    return low + margin, high - low - 2 * margin


def _check(hidden: int, lr_range: tuple, momentum_range: tuple, context: tuple) -> None:
    (lr_low, lr_high), (low, high) = lr_range, momentum_range
    if type(hidden) is not int or hidden < 1:
        raise ValueError(f"hidden is a whole number of units from 1, but got {hidden!r}")
    if not 1e-9 <= lr_low <= lr_high / 1.1 <= 1e9:  # what float32 can keep inside
        raise ValueError(f"lr_range is (low, high), 1e-9 <= low < high / 1.1, but got {lr_range}")
    if not 0 <= low <= high - 0.01 < 0.99:
        raise ValueError(f"momentum_range is in [0, 1), 0.01 wide, but got {momentum_range}")
    if isinstance(context, str) or not all(callable(f) or f in FEATURES for f in context or [""]):
        raise ValueError(f"context is a tuple out of {list(FEATURES)}, but got {context!r}")
