"""A learning rate and a momentum for each tensor of weights, from that tensor's own statistics.

State: a momentum buffer, the count of steps.  It sees: the context of each tensor.  Clock: every
inner step. Letters: L tensors. Source: step sizes per layer after You et al. 2017 (LARS, arXiv
1708.03888), picked by a net as in ``nested.levels.meta_optimizer``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from nested.levels.context import FEATURES, context_vector
from nested.levels.forward import Params, State
from nested.levels.meta_optimizer import MetaOptimizer
from nested.levels.momentum import momentum_step
from nested.levels.rule import Step
from nested.levels.slow_weights import slow_weights_step


def log_weight_size(*, params: Params, **seen: Any) -> Tensor:
    """Log of the root mean square of ``params`` {name: (...)}, (), at least log(1e-6)."""
    flat = torch.cat([p.reshape(-1) for p in params.values()])
    return torch.log(flat.square().mean() + 1e-12) / 8


def log_count(*, params: Params, **seen: Any) -> Tensor:
    """Log of the number of ``params`` {name: (...)}, ()."""
    some = next(iter(params.values()))
    count = sum(p.numel() for p in params.values())
    return torch.log(some.new_full((), float(max(count, 1)))) / 4 - 1


class PerTensorRule(MetaOptimizer):
    """``MetaOptimizer`` for each tensor of weights on its own: it sees the norm of that tensor's
    gradient, its angle to that tensor's momentum, and the tensor's size, and picks ``lr`` and
    ``momentum`` for it; the net is shared. Takes what ``MetaOptimizer`` takes but the context, and
    raises what it raises. Signals: ``lr`` and ``momentum``, (L,), of the tensors in order.
    """

    takes_tasks = True

    def __init__(
        self,
        hidden: int = 16,
        lr_range: tuple[float, float] = (1e-3, 10.0),
        momentum_range: tuple[float, float] = (0.0, 0.99),
        *,
        generator: Generator | None = None,
    ) -> None:
        context = (*FEATURES, log_weight_size, log_count)
        super().__init__(hidden, lr_range, momentum_range, context, generator=generator)

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        moved, buffers, lrs, momenta = {}, {}, [], []
        for name, p in params.items():
            own, grad, buffer = {name: p}, {name: grads[name]}, {name: state["momentum"][name]}
            seen = {"step": state["step"], "grads": grad, "buffer": buffer}
            context = context_vector(self.context, loss=loss, params=own, **seen)
            context = torch.where(torch.isfinite(loss).unsqueeze(-1), context, torch.nan)
            lr, momentum = self.signals(context)
            buffers |= momentum_step(buffer, grad, momentum)
            moved |= slow_weights_step(own, {name: buffers[name]}, lr)
            lrs.append(lr)
            momenta.append(momentum)
        kept = {"momentum": buffers, "step": state["step"] + 1}
        signals = {"lr": torch.stack(lrs, dim=-1), "momentum": torch.stack(momenta, dim=-1)}
        return Step(moved, kept, signals)
