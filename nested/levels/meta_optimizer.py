"""Level 4: a small net that decides, at every inner step, how levels 2 and 3 move.

State: its own weights, moved by meta-training.  It sees: the context of each inner step.  Clock:
every K inner steps.  Source: Daniel et al. 2016 (step size controllers), by hypergradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nested.levels.forward import Params, State
from nested.levels.momentum import momentum_step
from nested.levels.rule import Step, UpdateRule, observe
from nested.levels.slow_weights import slow_weights_step

# (centre, width) of each feature over a typical run, to bring all of them to order one
SCALES = {
    "log_loss": (0.0, 1.5),
    "log_step": (2.5, 1.5),
    "log_grad_norm": (0.0, 1.5),
    "grad_cosine": (0.0, 0.5),
}
START_LR, START_MOMENTUM = 0.1, 0.5
MARGIN = 1e-3  # the share of a range kept free at either end, so that rounding cannot leave it


class MetaOptimizer(UpdateRule):
    """Momentum SGD whose learning rate and momentum a net picks from what it sees at each step.

    ``hidden`` tanh units see the features named in ``context`` (fields of ``nested.levels.rule.
    Context``, except ``progress``: this rule is not told how long it will run). Both outputs are
    bounded by construction: a sigmoid, in log space for the learning rate, spans the *inside* of
    ``lr_range`` (> 0) and ``momentum_range`` (within [0, 1)), so that no input can leave it and
    both heads have a gradient from the first step. The start is lr 0.1 and momentum 0.5 (or as near
    as the ranges allow). ``generator`` draws the first weights; without one they are always alike.

    Signals: ``lr`` and ``momentum``, (). A non-finite loss gives the low end of both ranges.
    State: ``momentum``, a buffer named as the params, and ``step``, a scalar that counts from 0.
    Raises ``ValueError`` for a range, width or feature that is not allowed.
    """

    def __init__(
        self,
        hidden: int = 16,
        lr_range: tuple[float, float] = (1e-3, 10.0),
        momentum_range: tuple[float, float] = (0.0, 0.99),
        context: tuple[str, ...] = ("log_loss", "log_step", "log_grad_norm", "grad_cosine"),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check(hidden, lr_range, momentum_range, context)
        self.hidden, self.context = hidden, tuple(context)
        self.lr_range, self.momentum_range = tuple(lr_range), tuple(momentum_range)
        scales = torch.tensor([SCALES[name] for name in self.context])
        self.register_buffer("centre", scales[:, 0], persistent=False)
        self.register_buffer("width", scales[:, 1], persistent=False)
        self.net = nn.Sequential(nn.Linear(len(context), hidden), nn.Tanh(), nn.Linear(hidden, 2))
        self._start(generator or torch.Generator().manual_seed(0))

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        first, last = self.net[0], self.net[2]
        first.weight.uniform_(-1, 1, generator=generator).div_(math.sqrt(len(self.context)))
        first.bias.uniform_(-1, 1, generator=generator)
        last.weight.uniform_(-0.1, 0.1, generator=generator)  # small: starts nearly constant
        (lr_low, lr_high), (low, high) = self.lr_range, self.momentum_range
        lr_share = math.log(START_LR / lr_low) / math.log(lr_high / lr_low)
        momentum_share = (START_MOMENTUM - low) / (high - low)
        last.bias.copy_(torch.logit(torch.tensor([lr_share, momentum_share]).clamp(0.1, 0.9)))

    def init(self, params: Params) -> State:
        some = next(iter(params.values()))
        momentum = {name: torch.zeros_like(p) for name, p in params.items()}
        wide = torch.promote_types(some.dtype, torch.float32)  # half precision cannot count far
        return {"momentum": momentum, "step": torch.zeros((), dtype=wide, device=some.device)}

    def signals(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return (lr, momentum), each (...), for ``context`` (..., features), in ``self.context``'s
        order. Bounded for every finite input; a row that is not finite gets the low ends."""
        finite = torch.isfinite(context).all(-1, keepdim=True)
        x = (torch.where(finite, context, 0.0) - self.centre) / self.width
        x = 4 * torch.tanh(x / 4)  # order one, for any finite input
        logits = self.net(x.to(self.net[0].weight.dtype))
        logits = torch.where(finite, logits, -torch.inf)
        share = MARGIN + (1 - 2 * MARGIN) * torch.sigmoid(logits.to(context.dtype))
        (lr_low, lr_high), (low, high) = self.lr_range, self.momentum_range
        # lr = low (high / low)^share,  momentum = low + (high - low) share
        lr = torch.exp(math.log(lr_low) + math.log(lr_high / lr_low) * share[..., 0])
        return lr, low + (high - low) * share[..., 1]

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        seen = observe(
            self.context, loss=loss, step=state["step"], grads=grads, buffer=state["momentum"]
        )
        context = torch.stack([getattr(seen, name) for name in self.context], dim=-1)
        context = torch.where(torch.isfinite(loss), context, torch.nan)  # on to the safe end
        lr, momentum = self.signals(context)
        buffer = momentum_step(state["momentum"], grads, momentum)
        return Step(
            params=slow_weights_step(params, buffer, lr),
            state={"momentum": buffer, "step": state["step"] + 1},
            signals={"lr": lr, "momentum": momentum},
        )


def _check(hidden: int, lr_range: tuple, momentum_range: tuple, context: tuple[str, ...]) -> None:
    (lr_low, lr_high), (low, high) = lr_range, momentum_range
    if type(hidden) is not int or hidden < 1:
        raise ValueError(f"hidden is a whole number of units from 1, but got {hidden!r}")
    if not 1e-9 <= lr_low <= lr_high / 1.1 <= 1e9:  # what float32 can keep inside with MARGIN
        raise ValueError(f"lr_range is (low, high), 1e-9 <= low < high / 1.1, but got {lr_range}")
    if not 0 <= low <= high - 0.01 < 0.99:
        raise ValueError(f"momentum_range is in [0, 1), 0.01 wide, but got {momentum_range}")
    if isinstance(context, str) or not context or not set(context) <= SCALES.keys():
        raise ValueError(f"context is a tuple out of {list(SCALES)}, but got {context!r}")
