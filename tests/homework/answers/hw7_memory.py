"""A right answer to hw7: the recurrence with a step that is cut to length n delta."""

import torch

from nested.memory import LinearMemory


class HuberMemory(LinearMemory):
    def __init__(self, dim, chunk=64, delta=1.0):
        super().__init__(dim, chunk=chunk)
        self.delta = delta

    def read(self, x, memory, position):
        matrix, reads = memory["matrix"], []
        for k, v, q, n, log_a in zip(*(part.unbind(1) for part in self.project(x))):
            matrix = log_a.exp()[:, None, None] * matrix
            error = (matrix @ k[..., None]).squeeze(-1) - v
            size = error.norm(dim=-1, keepdim=True).clamp(min=self.delta)
            step = n[:, None] * self.delta / size * error
            matrix = matrix - step[..., None] * k[:, None]
            reads.append((matrix @ q[..., None]).squeeze(-1))
        return torch.stack(reads, dim=1), {"matrix": matrix}
