"""Level 4: a small net that decides, at every inner step, how levels 2 and 3 move.

State: its own weights, moved by meta-training.  It sees: the context of each inner step.  Clock:
every K inner steps.  Source: Daniel et al. 2016 (step size controllers), by hypergradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nested.levels.context import SCALES, look
from nested.levels.forward import Params, State
from nested.levels.momentum import momentum_step
from nested.levels.rule import Step, UpdateRule
from nested.levels.slow_weights import slow_weights_step

START_LR, START_MOMENTUM = 0.1, 0.5


class MetaOptimizer(UpdateRule):
    """Momentum SGD whose learning rate and momentum a net picks from what it sees at each step.

    ``hidden`` tanh units see the features in ``context``: fields of ``levels.context.Context`` (not
    ``progress``: this rule is not told its end), or functions: see ``look`` there. Both outputs are
    bounded by construction: a sigmoid, in log space for the learning rate, spans the *inside* of
    ``lr_range`` (> 0) and ``momentum_range`` (within [0, 1)): no input can leave it, and both heads
    have a gradient from the first step. They start near lr 0.1 and momentum 0.5, at least a tenth
    inside. ``generator`` draws the first weights; without one they are always alike.

    Signals: ``lr`` (weight change per unit of buffer) and ``momentum``, (); for a loss that is not
    finite, the low ends. State: ``momentum``, a buffer named as the params, and ``step``, a count
    from 0. Raises ``ValueError`` for a width or feature that is not allowed, and for a range
    narrower than float32 can keep inside: 10 % in lr, 0.01 in momentum.
    """

    takes_tasks = True

    def __init__(
        self,
        hidden: int = 16,
        lr_range: tuple[float, float] = (1e-3, 10.0),
        momentum_range: tuple[float, float] = (0.0, 0.99),
        context: tuple[str | Callable, ...] = tuple(SCALES),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check(hidden, lr_range, momentum_range, context)
        self.hidden, self.context = hidden, tuple(context)
        self.lr_range, self.momentum_range = tuple(lr_range), tuple(momentum_range)
        scales = _constant([SCALES.get(feature, (0.0, 1.0)) for feature in self.context])
        spans = _constant([_inside(*map(math.log, lr_range)), _inside(*momentum_range)])
        constants = _constant(4.0), scales[:, 0], 4 * scales[:, 1], *spans.unbind(1)
        for name, constant in zip(("reach", "centre", "width", "low", "span"), constants):
            self.register_buffer(name, constant, persistent=False)
        self.net = nn.Sequential(nn.Linear(len(context), hidden), nn.Tanh(), nn.Linear(hidden, 2))
        self._start(generator or torch.Generator().manual_seed(0))

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        first, _, last = self.net
        near, small = (-1, 1), (-0.1, 0.1)  # small: starts nearly constant
        for p, reach in ((first.weight, near), (first.bias, near), (last.weight, small)):
            p.copy_(torch.empty_like(p, dtype=torch.float32).uniform_(*reach, generator=generator))
        first.weight.div_(math.sqrt(len(self.context)))
        share = (_constant([math.log(START_LR), START_MOMENTUM]) - self.low) / self.span
        last.bias.copy_(torch.logit(share.clamp(0.1, 0.9)))

    def init(self, params: Params) -> State:
        momentum = {name: torch.zeros_like(p) for name, p in params.items()}
        some = next(iter(momentum.values()))
        wide = torch.promote_types(some.dtype, torch.float32)  # half precision cannot count far
        return {"momentum": momentum, "step": some.new_zeros((), dtype=wide)}

    def signals(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return (lr, momentum), each (...), for ``context`` (..., features), in ``self.context``'s
        order. Bounded for every finite input; a row that is not finite gets the low ends.
        Raises ``RuntimeError`` for another number of features."""
        finite = torch.isfinite(context).all(-1, keepdim=True)
        x = torch.where(finite, context, self.centre)
        x = self.reach * torch.tanh((x - self.centre) / self.width)  # within 4: order one
        first, tanh, last = self.net
        share = torch.sigmoid(_linear(last, tanh(_linear(first, x.to(first.weight.dtype)))))
        share = share.to(context.dtype) * finite  # log lr and momentum: low + (high - low) share
        log_lr, momentum = torch.addcmul(self.low, self.span, share).unbind(-1)
        return log_lr.exp(), momentum

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        seen = {"step": state["step"], "grads": grads, "buffer": state["momentum"]}
        context = look(self.context, loss=loss, params=params, **seen)  # (features,)
        context = context.add(loss.detach().unsqueeze(-1), alpha=0)  # not finite: the low ends
        lr, momentum = self.signals(context)
        buffer = momentum_step(state["momentum"], grads, momentum)
        kept = {"momentum": buffer, "step": state["step"] + 1}
        return Step(slow_weights_step(params, buffer, lr), kept, {"lr": lr, "momentum": momentum})


def _constant(numbers: float | list) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)  # whatever the default dtype is


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return torch.addmv(layer.bias, layer.weight, x) if x.dim() == 1 else layer(x)  # for speed


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
    if isinstance(context, str) or not all(callable(f) or f in SCALES for f in context or [""]):
        raise ValueError(f"context is a tuple out of {list(SCALES)}, but got {context!r}")
