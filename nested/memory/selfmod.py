"""Self-modifying Titans: five memories that learn while they read, each from targets of its own.

State: five small nets for each sample: what a key, a value, a rate and a retention are, and the
memory that is read.  It sees: tokens, and their own values.  Clock: every chunk.
Letters: B samples, T tokens, D width, C tokens of a chunk, M = 5 memories.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 83-93.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, silu

from nested.levels.forward import Params
from nested.memory.gates import Gate
from nested.memory.linear import check_objective, decays
from nested.memory.net import draw_matrix, hidden_units
from nested.memory.sequence import ChunkedMemory


class SelfModifyingTitans(ChunkedMemory):
    """Five nets of each sample, M(z) = z + W1 silu(W2 z); that of the rate and of the forgetting
    give one number, W1 silu(W2 z). With each token x, at the weights of its chunk's start,

        q = unit(W_q x), k = unit(M_k(x)), v = unit(M_v(x)), y = M(q),
        n = rate(M_n(x)), a = 1 - forgetting(M_a(x)),
        L = 1/2 |M'(k) - M'(v)|^2 ("l2", eq. 93) or -<M'(k), M'(v)> ("dot", eq. 92)

    for each M' of the five, its target M'(v) a constant to the inner gradient; each matrix with its
    input i (k for W2, s(W2 k) for W1) and i^ = unit(i) moves by

        W <- W (a I - n i^ i^^T) - n dL/dW.

    With "l2" the decay counts twice, so that a memory that met (k, v) without end holds half its
    target: printed so, and kept. Rates are in (1e-5, 0.1), from 0.002; forgetting in (1e-6, 0.05),
    from 5e-5. The first weights ``w2`` (M, D, D), ``w1`` (3, D, D) and ``gates`` (2, 1, D) are
    parameters, of the main memory, the key's, the value's, the rate's and the forgetting's, in that
    order. The state is {"position", "memory": {"start", "now"}}, each {"w1", "w2", "gates": (B,
    ...)}. Raises ``ValueError`` for another objective, and as ``SequenceMemory`` does.
    """

    def __init__(
        self, dim: int, objective: str = "l2", chunk: int = 64, *, detach_every: int | None = None
    ) -> None:
        super().__init__(dim, chunk, detach_every=detach_every)
        check_objective(objective)
        self.objective = objective
        self.query = nn.Linear(dim, dim, bias=False)
        self.rate, self.forgetting = Gate(1e-5, 2e-3, 0.1), Gate(1e-6, 5e-5, 0.05)
        self.w1, self.w2 = draw_matrix(3, dim, dim), draw_matrix(5, dim, dim)
        self.gates = draw_matrix(2, 1, dim, size=0.1)  # gates start near where biases say

    def weights(self, batch_size: int) -> Params:
        first = {"w1": self.w1, "w2": self.w2, "gates": self.gates}
        return {name: w.expand(batch_size, *w.shape) for name, w in first.items()}

    def look(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, normalize(self.query(x), dim=-1)

    def step(self, seen: tuple[Tensor, ...], start: Params, now: Params) -> tuple[Tensor, Params]:
        x, queries = seen
        w1, w2, gates = start["w1"], start["w2"], start["gates"]
        y = queries + silu(queries @ w2[:, 0].mT) @ w1[:, 0].mT

        x = x[:, None]  # (B, 1, C, D): for each memory
        units = silu(x @ w2[:, 1:].mT)
        made = normalize(x + units[:, :2] @ w1[:, 1:].mT, dim=-1)
        keys, values = made[:, :1], made[:, 1:]
        rate, forgetting = (units[:, 2:] @ gates.mT).unbind(1)  # (B, C, 1)
        rates, log_kept = self.rate(rate), torch.log1p(-self.forgetting(forgetting))

        units, slopes = hidden_units(keys, w2)  # (B, M, C, D)
        off, off_gates = self._off(keys, values, units, silu(values @ w2.mT), w1, gates)
        back = torch.cat([off @ w1, off_gates * gates], dim=1) * slopes
        sizes = torch.linalg.vector_norm(units, dim=-1, keepdim=True)
        unit = units / sizes.clamp(min=1e-12)
        b, decay = (part[:, None] for part in decays(log_kept[..., 0]))
        rates = rates[:, None]
        erase = rates / log_kept.exp()[:, None]  # a I - n i i^T = a (I - n / a i i^T)
        of_keys = (erase * decay * (keys @ keys.mT)).tril(-1)
        of_units = (erase * decay * (unit @ unit.mT)).tril(-1)

        def after(matrix, inputs, deltas, lower):
            """W <- W (a I - n i^ i^^T) - n delta i^^T for all tokens: delta rule, values -delta."""
            wanted = -(rates * deltas + erase * b * (inputs @ matrix.mT))
            lower = lower.expand(*wanted.shape[:-1], -1)
            u = torch.linalg.solve_triangular(lower, wanted, upper=False, unitriangular=True)
            return b[:, :, -1:] * matrix + (decay[:, :, -1, :, None] * u).mT @ inputs

        off, off_gates = off * sizes[:, :3], off_gates * sizes[:, 3:]
        return y, {
            "w1": after(now["w1"], unit[:, :3], off, of_units[:, :3]),
            "w2": after(now["w2"], keys, back, of_keys),
            "gates": after(now["gates"], unit[:, 3:], off_gates, of_units[:, 3:]),
        }

    def _off(self, keys, values, units, target_units, w1, gates):
        """dL/dM'(k) of the memories (B, 3, C, D), and of the gates (B, 2, C, 1)."""
        if self.objective == "dot":  # -M'(v)
            targets = values + target_units[:, :3] @ w1.mT
            return -targets, -(target_units[:, 3:] @ gates.mT)
        apart = units - target_units  # M'(k) - M'(v)
        return keys - values + apart[:, :3] @ w1.mT, apart[:, 3:] @ gates.mT
