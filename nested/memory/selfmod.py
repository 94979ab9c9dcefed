"""Self-modifying Titans: five memories that learn while they read, each from targets of its own.

State: five small nets for each sample: what a key, a value, a rate and a retention are, and the
memory that is read.  It sees: tokens, and its own answers to their values.  Clock: every token, by
gradients at the weights of the chunk's start.
Letters: B samples, T tokens, D width, C tokens of a chunk, M = 5 memories.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 82-93.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nested.levels.forward import Params
from nested.memory.gates import Gate
from nested.memory.linear import check_objective, decays, solve
from nested.memory.net import damping, draw_matrix, hidden_units, squared, unit
from nested.memory.sequence import ChunkedMemory, check_cut

READS = ("now", "start")


class SelfModifyingTitans(ChunkedMemory):
    """Five nets of each sample, M(z) = z + W1 silu(W2 z); those of the rate and of the forgetting
    give one number, W1 silu(W2 z). For each token x, at the weights of its chunk's start,

        q = unit(W_q x), k = unit(M_k(x)), v = unit(M_v(x)),
        n = rate(M_n(x)), a = 1 - forgetting(M_a(x)),
        L = 1/2 |M'(k) - M'(v)|^2 ("l2", eq. 93) or -<M'(k), M'(v)> ("dot", eq. 92)

    for each M' of the five, its target M'(v) a constant to the inner gradient; each matrix with its
    input i (k for W2, silu(W2 k) for W1) and i^ = unit(i) moves by

        W <- W (a I - n i^ i^^T) - c n dL/dW,     y = M(q),

    where c is 1 in the paper and here ``damping``, under 1 where the step would overshoot. With
    "l2" the decay counts twice, so that a memory that met (k, v) without end holds half its
    target: printed so, and kept. Reads, where the paper's two versions differ, are by the weights
    ``reads`` "now", after the token's own write (eq. 82), or at the chunk's "start" (eq. 90), which
    does not see what the last ``chunk`` tokens have written.

    The rate starts at 0.19 / ``chunk`` (0.003 for 64), or at D / 4,096 if that is less, and stays
    under 1 / ``chunk``; forgetting starts at 5e-5 and stays under 0.05. The first weights ``w2``
    (M, D, D), ``w1`` (3, D, D) and ``gates`` (2, 1, D) are parameters: of the main memory, the
    key's, the value's, the rate's and the forgetting's, in that order. The state is {"position",
    "memory": {"start", "now"}}, each {"w1", "w2", "gates": (B, ...)}. Raises ``ValueError`` for
    other objectives and reads, for a ``detach_every`` that divides ``chunk`` (keys and rates would
    have no gradient), and as ``SequenceMemory`` does."""

    def __init__(
        self,
        dim: int,
        objective: str = "l2",
        chunk: int = 64,
        *,
        reads: str = "now",
        detach_every: int | None = None,
    ) -> None:
        super().__init__(dim, chunk, detach_every=detach_every)
        check_objective(objective)
        check_cut(detach_every, chunk)
        if reads not in READS:
            raise ValueError(f"reads is one of {READS}, but got {reads!r}")
        self.objective, self.reads = objective, reads
        self.query = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.query.weight, std=0.06 / math.sqrt(dim))  # short: soon turned
        # a random token erases a D-th of what its rate would: after 4,096, 0.3 of W is left
        rate = min(0.19 / chunk, dim / 4096)  # 0.003 for chunks of 64
        self.rate = Gate(1e-4 / chunk, rate, 1 / chunk)
        self.forgetting = Gate(1e-6, 5e-5, 0.05)
        self.w2 = draw_matrix(5, dim, dim, size=2.0)
        self.w1 = draw_matrix(3, dim, dim, size=0.3)
        self.gates = draw_matrix(2, 1, dim, size=0.1)  # gates start near where biases say
        with torch.no_grad():
            self.w1[0] = 0  # the main memory knows nothing yet

    def weights(self, batch_size: int) -> Params:
        first = {"w1": self.w1, "w2": self.w2, "gates": self.gates}
        return {name: w.expand(batch_size, *w.shape) for name, w in first.items()}

    def look(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, unit(self.query(x))

    def step(self, seen: tuple[Tensor, ...], start: Params, now: Params) -> tuple[Tensor, Params]:
        x, queries = seen
        w1, w2, gates = start["w1"], start["w2"], start["gates"]
        x = x[:, None]  # (B, 1, C, D): for each memory
        units = silu(x @ w2[:, 1:].mT)
        made = unit(x + units[:, :2] @ w1[:, 1:].mT)
        keys, values = made[:, :1], made[:, 1:]
        rate, forgetting = (units[:, 2:] @ gates.mT).split(1, dim=1)  # (B, 1, C, 1)
        rates, log_kept = self.rate(rate), torch.log1p(-self.forgetting(forgetting))

        units, slopes = hidden_units(keys, w2)  # (B, M, C, D)
        off, off_gates = self._off(keys, values, units, silu(values @ w2.mT), w1, gates)
        back = torch.cat([off @ w1, off_gates * gates], dim=1) * slopes  # dL/dW2 = back k^T
        shares = damping(units, torch.cat([squared(off), squared(off_gates)], dim=1), back)
        off, off_gates, back = off * shares[:, :3], off_gates * shares[:, 3:], back * shares
        sizes = torch.linalg.vector_norm(units, dim=-1, keepdim=True)
        directions = units / sizes.clamp(min=1e-4)
        b, decay = decays(log_kept[..., 0])
        erase = rates / log_kept.exp()  # a I - n i i^T = a (I - n / a i i^T)

        def writes(matrix, inputs, deltas):
            """U of W <- W (a I - n i^ i^^T) - n delta i^^T: the delta rule, with values -delta."""
            lower = (erase * decay * (inputs @ inputs.mT)).tril(-1)
            wanted = -(rates * deltas + erase * b * (inputs @ matrix.mT))
            lower = lower.expand(*wanted.shape[:-1], -1)
            return solve(lower, wanted)

        def after(matrix, inputs, u):
            return b[:, :, -1:] * matrix + (decay[:, :, -1, :, None] * u).mT @ inputs

        of_gates = writes(now["gates"], directions[:, 3:], off_gates * sizes[:, 3:])
        u1 = writes(now["w1"], directions[:, :3], off * sizes[:, :3])
        u2 = writes(now["w2"], keys, back)
        y = self._read(
            queries, start, now, (directions[:, 0], u1[:, 0]), (keys[:, 0], u2[:, 0]), b, decay
        )
        return y, {
            "w1": after(now["w1"], directions[:, :3], u1),
            "w2": after(now["w2"], keys, u2),
            "gates": after(now["gates"], directions[:, 3:], of_gates),
        }

    def _off(self, keys, values, units, target_units, w1, gates):
        """dL/dM'(k) of the memories (B, 3, C, D), and of the gates (B, 2, C, 1)."""
        if self.objective == "dot":  # -M'(v)
            targets = values + target_units[:, :3] @ w1.mT
            return -targets, -(target_units[:, 3:] @ gates.mT)
        apart = units - target_units  # M'(k) - M'(v)
        return keys - values + apart[:, :3] @ w1.mT, apart[:, 3:] @ gates.mT

    def _read(self, queries, start, now, first, second, b, decay):
        """M(q) (B, C, D), of the main memory."""
        if self.reads == "start":
            return queries + silu(queries @ start["w2"][:, 0].mT) @ start["w1"][:, 0].mT

        def at_each_token(z, matrix, inputs, u):  # W_t z_t, with no W_t ever written out
            return b[:, 0] * (z @ matrix[:, 0].mT) + (decay[:, 0] * (z @ inputs.mT)) @ u

        units = silu(at_each_token(queries, now["w2"], *second))
        return queries + at_each_token(units, now["w1"], *first)
