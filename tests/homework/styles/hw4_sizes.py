"""A right answer to hw4 in float32, with a named tuple for a state: rates by the sizes of weights
and gradients, as in LARS, with learned powers."""

from typing import NamedTuple

import torch
from torch import nn

from nested import Step, UpdateRule


class Past(NamedTuple):
    velocities: tuple


class DepthRule(UpdateRule):
    ordered = True

    def __init__(self):
        super().__init__()
        self.powers = nn.Parameter(torch.tensor([0.05, -0.05, 0.1, 0.05]))
        self.level = nn.Parameter(torch.tensor(-2.0))
        self.friction = nn.Parameter(torch.tensor(0.0))

    def init(self, params):
        return Past(tuple(torch.zeros_like(w) for w in params.values()))

    def forward(self, params, grads, state, loss):
        momentum = torch.sigmoid(self.friction.float())
        velocities, moved, rates = [], {}, []
        for place, (name, w) in enumerate(params.items()):
            g = grads[name]
            seen = torch.stack(
                [size(w), size(g), size(g) * 0 + g.dim() - 1, size(g) * 0 + place / 4]
            )
            rate = torch.exp(3 * torch.tanh((self.level.float() + self.powers.float() @ seen) / 3))
            velocity = momentum * state.velocities[place] + g
            moved[name] = w - rate * velocity
            velocities.append(velocity)
            rates.append(rate)
        return Step(moved, Past(tuple(velocities)), {"lr": torch.stack(rates)})


def size(x):
    return torch.log(x.float().clamp(-1e12, 1e12).square().mean() + 1e-12) / 4
