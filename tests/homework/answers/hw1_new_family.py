"""A right answer to hw1: sines of random amplitude and phase, learned by a small net (MAML's)."""

import math
from dataclasses import dataclass

import torch
from torch import Generator

from nested import Task, TaskFamily

ROWS, HIDDEN = 16, 24


def draw(low, high, shape, generator):
    return low + (high - low) * torch.rand(shape, generator=generator)


class MyFamily(TaskFamily):
    """A task is a wave a sin(x + p); a batch is (x (B, 1), y (B, 1)), B = 16; the loss is the mean
    squared error of a net 1 - 24 - 1. Amplitudes below 2.5 are for meta-training, others held out.
    """

    def __init__(self, is_held_out=False):
        self.is_held_out = is_held_out

    def sample(self, generator: Generator):
        low, high = (2.5, 5.0) if self.is_held_out else (0.5, 2.5)
        amplitude = draw(low, high, (), generator).item()
        return MyTask(amplitude, draw(0.0, 2 * math.pi, (), generator).item())

    def held_out(self):
        return MyFamily(is_held_out=True)


@dataclass(frozen=True)
class MyTask(Task):
    """One wave."""

    amplitude: float
    phase: float

    def init(self, generator):
        return {
            "hidden.weight": draw(-1.0, 1.0, (HIDDEN, 1), generator),
            "hidden.bias": draw(-3.0, 3.0, (HIDDEN,), generator),
            "out.weight": draw(-0.2, 0.2, (1, HIDDEN), generator),
            "out.bias": torch.zeros(1),
        }

    def batch(self, generator, split="train"):
        if split not in ("train", "query"):
            raise ValueError(f"split is train or query, but got {split!r}")
        x = draw(-5.0, 5.0, (ROWS, 1), generator)
        side = torch.floor(x * 10) % 2  # strips of width 0.1, for train and for query in turn
        x = torch.where(side == (split == "query"), x, x + 0.1)
        return x, self.amplitude * torch.sin(x + self.phase)

    def loss(self, params, batch):
        x, y = batch
        hidden = torch.tanh(x @ params["hidden.weight"].T + params["hidden.bias"])
        guess = hidden @ params["out.weight"].T + params["out.bias"]
        return ((guess - y) ** 2).mean()
