"""A right answer to hw1 by loops, with dicts for batches: cubics, and weights in one vector."""

import torch

from nested import Task, TaskFamily

DEGREE, ROWS = 3, 20


class MyFamily(TaskFamily):
    """A task is a cubic; those with a positive leading coefficient are for meta-training."""

    sign = 1

    def sample(self, generator):
        numbers = [float(torch.randn((), generator=generator)) for _ in range(DEGREE + 1)]
        numbers[-1] = self.sign * (0.2 + abs(numbers[-1]))
        return Cubic(numbers)

    def held_out(self):
        other = MyFamily()
        other.sign = -1
        return other


class Cubic(Task):
    def __init__(self, numbers):
        self.numbers = numbers

    def init(self, generator):
        return {"coefficients": 0.1 * torch.randn(DEGREE + 1, generator=generator)}

    def batch(self, generator, split="train"):
        if split == "train":
            low = -1.0
        elif split == "query":
            low = -1.0 + 1 / ROWS  # the other half of each of ROWS strips
        else:
            raise ValueError("split is train or query")
        xs, ys = [], []
        for row in range(ROWS):
            x = low + (2 * row + float(torch.rand((), generator=generator))) / ROWS
            y = 0.0
            for power, number in enumerate(self.numbers):
                y += number * x**power
            xs.append([x])
            ys.append([y])
        return {"y": torch.tensor(ys), "x": torch.tensor(xs)}

    def loss(self, params, batch):
        total, power = 0.0, torch.ones_like(batch["x"])
        for i in range(DEGREE + 1):
            total = total + params["coefficients"][i] * power
            power = power * batch["x"]
        return ((total - batch["y"]) ** 2).sum() / ROWS
