"""A right answer to hw3: a GRU, with named tuples for a state."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nested import Step, UpdateRule


class Memory(NamedTuple):
    velocity: dict
    hidden: Tensor


class RecurrentRule(UpdateRule):
    def __init__(self, units=6):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.update = nn.Parameter(0.4 * torch.randn(units, 2 + units, generator=generator))
        self.reset = nn.Parameter(0.4 * torch.randn(units, 2 + units, generator=generator))
        self.candidate = nn.Parameter(0.4 * torch.randn(units, 2 + units, generator=generator))
        self.to_lr = nn.Parameter(0.3 * torch.randn(units, generator=generator))
        self.to_momentum = nn.Parameter(0.3 * torch.randn(units, generator=generator))
        self.units = units

    def init(self, params):
        like = next(iter(params.values()))
        zeros = {name: torch.zeros_like(w) for name, w in params.items()}
        return Memory(velocity=zeros, hidden=like.new_zeros(self.units))

    def forward(self, params, grads, state, loss):
        squares = [g.clamp(-1e15, 1e15).square().sum() for g in grads.values()]
        size = torch.stack(squares).sum()
        seen = torch.stack([torch.nan_to_num(loss.abs(), nan=1.0), size.clamp(max=1e30)])
        seen = torch.log(seen.clamp(1e-12, 1e30)) / 5
        h = state.hidden
        both = torch.cat([seen, h])
        z, r = torch.sigmoid(self.update @ both), torch.sigmoid(self.reset @ both)
        new = torch.tanh(self.candidate @ torch.cat([seen, r * h]))
        h = (1 - z) * h + z * new
        lr = 3 * torch.sigmoid(self.to_lr @ h - 3)
        momentum = torch.sigmoid(self.to_momentum @ h)
        velocity = {name: momentum * state.velocity[name] + g for name, g in grads.items()}
        moved = {name: w - lr * velocity[name] for name, w in params.items()}
        return Step(moved, Memory(velocity, h), {"lr": lr, "momentum": momentum})
