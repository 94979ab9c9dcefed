"""A right answer to hw7 by einsum, its matrix kept the other way round."""

import torch

from nested.memory import LinearMemory


class HuberMemory(LinearMemory):
    def __init__(self, dim, chunk=64, delta=1.0):
        super().__init__(dim, chunk=chunk)
        self.delta = delta

    def read(self, x, memory, position):
        keys, values, queries, rates, log_kept = self.project(x)
        turned = memory["matrix"]  # (B, key, value)
        out = torch.empty_like(x)
        for t in range(x.shape[1]):
            turned = torch.einsum("b,bkv->bkv", log_kept[:, t].exp(), turned)
            miss = values[:, t] - torch.einsum("bk,bkv->bv", keys[:, t], turned)
            square = miss.square().sum(1)
            is_far = square > self.delta**2
            safe = torch.where(is_far, square, 1.0)
            force = rates[:, t] * torch.where(is_far, self.delta * safe.rsqrt(), 1.0)
            turned = turned + torch.einsum("b,bk,bv->bkv", force, keys[:, t], miss)
            out[:, t] = torch.einsum("bk,bkv->bv", queries[:, t], turned)
        return out, {"matrix": turned}
