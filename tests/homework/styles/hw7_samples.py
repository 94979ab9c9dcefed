"""A right answer to hw7 that reads each sample by itself, with a named tuple for a memory."""

from typing import NamedTuple

import torch
from torch import Tensor

from nested.memory import LinearMemory


class Held(NamedTuple):
    matrix: Tensor


class HuberMemory(LinearMemory):
    def __init__(self, dim, chunk=64, delta=1.0):
        super().__init__(dim, chunk=chunk)
        self.delta = delta

    def begin(self, batch_size):
        return Held(super().begin(batch_size)["matrix"])

    def read(self, x, memory, position):
        parts = [self.read_one(*one) for one in zip(*self.project(x), memory.matrix)]
        reads, matrices = zip(*parts)
        return torch.stack(reads), Held(torch.stack(matrices))

    def read_one(self, keys, values, queries, rates, log_kept, m):
        reads = []
        for k, v, q, n, log_a in zip(keys, values, queries, rates, log_kept):
            m = log_a.exp() * m
            e = m @ k - v
            m = m - n * torch.outer(e, k) / (e.norm() / self.delta).clamp(min=1)
            reads.append(m @ q)
        return torch.stack(reads), m
