"""A right answer to hw4: one small net sees, of each tensor, its place and its gradient's size."""

import torch
from torch import nn

from nested import Step, UpdateRule, momentum_step


class DepthRule(UpdateRule):
    ordered = True

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(0.3 * torch.randn(16, 4, generator=generator))
        self.first_bias = nn.Parameter(0.3 * torch.randn(16, generator=generator))
        self.last = nn.Parameter(0.03 * torch.randn(16, generator=generator))
        self.last_bias = nn.Parameter(torch.tensor(-2.3))  # a rate near 0.1
        self.logit_momentum = nn.Parameter(torch.zeros(()))

    def init(self, params):
        return {name: torch.zeros_like(p) for name, p in params.items()}

    def rates(self, params, grads):
        some, count = next(iter(params.values())), len(params)
        place = torch.arange(count, dtype=some.dtype, device=some.device)
        size = torch.stack([log_size(g) for g in grads.values()])
        seen = [place / max(count - 1, 1), (count - 1 - place) / 4, size, size - size.mean()]
        hidden = torch.tanh(torch.stack(seen, dim=-1) @ self.first.T + self.first_bias)
        return torch.exp(3 * torch.tanh((hidden @ self.last + self.last_bias) / 3))

    def forward(self, params, grads, state, loss):
        lr = self.rates(params, grads).to(loss.dtype)
        buffer = momentum_step(state, grads, self.logit_momentum.sigmoid())
        moved = {
            name: (w - rate * buffer[name]).to(w.dtype)
            for rate, (name, w) in zip(lr, params.items())
        }
        return Step(moved, buffer, {"lr": lr})


def log_size(g):
    """The logarithm of a gradient's typical size, of order one, finite at 0 and at 1e30."""
    return torch.log(g.clamp(-1e12, 1e12).square().mean() + 1e-12) / 4
