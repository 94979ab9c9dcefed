"""Self-modifying Titans: five memories that learn while they read, each from targets of its own.

State: five small nets for each sample: what a key, a value, a rate and a retention are, and the
memory that is read.  It sees: tokens, and its own answers to their values.  Clock: every token, by
gradients at the weights of the chunk's start.
Letters: B samples, T tokens, D width, C tokens of a chunk, M = 5 memories.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 82-93.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nested.levels.forward import Params
from nested.memory.gates import Gate
from nested.memory.level import Level, count_parameters
from nested.memory.linear import check_objective, decays
from nested.memory.net import (
    clamp_min,
    damping,
    inverse,
    random_matrix,
    short_query_projection,
    silu_and_slope,
    squared,
    unit,
)
from nested.memory.sequence import ChunkedMemory, check_truncation
from nested.memory.state import count_numbers

READS = ("now", "start")


class SelfModifyingTitans(ChunkedMemory):
    """Five nets of each sample, M(z) = z + W1 silu(W2 z); those of the rate and of the forgetting
    give one number, W1 silu(W2 z). For each token x, at the weights of its chunk's start,

        q = unit(W_q x), k = unit(S_k x + W1 silu(W2 x)), v = unit(S_v x + W1 silu(W2 x)),
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

    The maps S, ``skip`` (2 D, D), are ours: the paper's k and v are M_k(x) and M_v(x), S = I. Both
    then begin as the token, and training has to tell them apart first: of ``ChangingKeys(8, 32,
    changes=3)`` models of 52 or 56 units, which learned from texts of 2, 4 and 8 pairs, answered 30
    and 38 % right after 750 steps at a rate of 0.003 (two draws of first weights), with maps S 47
    and 43 %.

    The rate starts at 0.19 / ``chunk`` (0.003 for 64), or at D / 4,096 if that is less, and stays
    under 1 / ``chunk``; forgetting starts at 5e-5 and stays under 0.05. For chunks of 1 and D = 128
    that is a rate of 0.03: half of each memory is left after 4,096 random tokens. The first
    weights ``w2`` (M, D, D), ``w1`` (3, D, D) and ``gates`` (2, 1, D) are parameters: of the main
    memory, the key's, the value's, the rate's and the forgetting's, in that order. The state is
    {"position", "memory": {"start", "now"}}, each {"w1", "w2", "gates": (B, ...)}. Raises
    ``ValueError`` for other objectives and reads, for a ``detach_every`` that divides ``chunk``
    (the rules' first weights would have no gradient but by the first chunk), and as
    ``SequenceMemory`` does."""

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
        check_truncation(detach_every, chunk)
        if reads not in READS:
            raise ValueError(f"reads is one of {READS}, but got {reads!r}")
        self.objective, self.reads = objective, reads
        self.query, self.skip = short_query_projection(dim), nn.Linear(dim, 2 * dim, bias=False)
        # a random token erases a D-th of what its rate would: after 4,096, 0.3 of W is left
        rate = min(0.19 / chunk, dim / 4096)  # 0.003 for chunks of 64
        self.rate = Gate(1e-4 / chunk, rate, 1 / chunk)
        self.forgetting = Gate(1e-6, 5e-5, 0.05)
        self.w2 = random_matrix(5, dim, dim, size=2.0)
        self.w1 = random_matrix(3, dim, dim, size=0.3)
        self.gates = random_matrix(2, 1, dim, size=0.1)  # gates start near where biases say
        with torch.no_grad():
            self.w1[0] = 0  # the main memory knows nothing yet

    def clocks(self) -> dict[str, int]:
        name, memory_period = type(self).__name__, 1 if self.reads == "now" else self.chunk
        return {f"{name}, memory": memory_period, f"{name}, its rules": self.chunk}

    def describe(self) -> list[Level]:
        (memory, memory_period), (rules, rules_period) = self.clocks().items()
        # of the main memory: W1 and W2 at the chunk's start and now, and their first values
        numbers, parameters = 4 * self.dim**2, 2 * self.dim**2
        numbers_of_rules = count_numbers(self.begin(1)) - numbers
        parameters_of_rules = count_parameters(self) - parameters
        sees = "keys of tokens, and its own answers to their values"
        return [
            Level(memory, f"{numbers:,}", sees, memory_period, parameters),
            Level(rules, f"{numbers_of_rules:,}", sees, rules_period, parameters_of_rules),
        ]

    def weights(self, batch_size: int) -> Params:
        first = {"w1": self.w1, "w2": self.w2, "gates": self.gates}
        return {name: w.expand(batch_size, *w.shape) for name, w in first.items()}

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, self.skip(x), unit(self.query(x))

    def step(self, seen: tuple[Tensor, ...], start: Params, now: Params) -> tuple[Tensor, Params]:
        x, skips, queries = seen
        made, rates, log_kept = self._made(x, skips, start)
        before, units, sizes, to_w1, to_gates, to_w2 = self._moves(made, rates, start)
        of_nets, of_gates = (rates / clamp_min(sizes, 1e-8)).split([3, 2], dim=1)  # i is no i^
        nets, ends = units.split([3, 2], dim=1)
        decay = decays(log_kept.squeeze(-1))  # (B, 1, C, 1), (B, 1, C, C)
        before_token = _one_token_earlier(*decay)
        u1, w1 = _written(now["w1"], nets, to_w1, of_nets, decay, before_token)
        _, gates = _written(now["gates"], ends, to_gates, of_gates, decay, before_token)

        keys = made.unbind(1)[0]  # of all W2 alike: one matrix (B, M D, D)
        b, decay = (x.squeeze(1) for x in decay)
        before_token = tuple(x.squeeze(1) for x in before_token)
        known = before if now is start else None
        of_w2 = rates.squeeze(1), (b, decay), before_token
        u2, w2 = _written(now["w2"].flatten(1, 2), keys, to_w2, *of_w2, known)
        after = {"w1": w1, "w2": w2.unflatten(1, (5, -1)), "gates": gates}
        if self.reads == "start":
            return queries + silu(queries @ _main(start["w2"]).mT) @ _main(start["w1"]).mT, after

        def at_each_token(z, matrix, inputs, u):  # W_t z_t, with no W_t ever written out
            return b * (z @ _main(matrix).mT) + (decay * (z @ inputs.mT)) @ u

        of_main = u2.split(self.dim, dim=-1)[0]
        read = silu(at_each_token(queries, now["w2"], keys, of_main))
        return queries + at_each_token(read, now["w1"], _main(nets), _main(u1)), after

    def _made(self, x, skips, start):
        """Keys and values (B, 2, C, D), rates and logarithms of retentions (B, 1, C, 1) of x."""
        rules = start["w2"].split([1, 4], dim=1)[1]  # split: slices have a slow way back
        of_nets, of_gates = silu(_by_memory(x @ rules.flatten(1, 2).mT, 4)).split(2, dim=1)
        made = _by_memory(skips, 2) + of_nets @ start["w1"].split([1, 2], dim=1)[1].mT
        rate, forgetting = (of_gates @ start["gates"].mT).split(1, dim=1)
        return unit(made), self.rate(rate), self.forgetting.log_rest(forgetting)

    def _moves(self, made, rates, start):
        """-c n dL/d(W i) of W1 (B, 3, C, D), the gates (B, 2, C, 1) and W2 (B, C, M D); before
        them W2 k (B, C, M D), its hidden units (B, M, C, D) and their squared lengths."""
        w1, w2, gates = start["w1"], start["w2"], start["gates"]
        before, others = (made.flatten(1, 2) @ w2.flatten(1, 2).mT).chunk(2, dim=1)  # W2 k, W2 v
        units, slopes = silu_and_slope(_by_memory(before, 5))
        off, off_gates = self._off(made, units, silu(_by_memory(others, 5)), w1, gates)
        back = torch.cat([off @ w1, off_gates * gates], dim=1) * slopes
        sizes, error = squared(units), torch.cat([squared(off), squared(off_gates)], dim=1)
        moves = -rates * damping(sizes, error, squared(back))  # (B, M, C, 1)
        of_nets, of_gates = moves.split([3, 2], dim=1)
        to_w2 = (moves * back).transpose(1, 2).flatten(2)
        return before, units, sizes, of_nets * off, of_gates * off_gates, to_w2

    def _off(self, made, units, target_units, w1, gates):
        """dL/dM'(k) of the memories (B, 3, C, D), and of the gates (B, 2, C, 1)."""
        keys, values = made.split(1, dim=1)
        if self.objective == "dot":  # -M'(v)
            nets, ends = target_units.split([3, 2], dim=1)
            return -(values + nets @ w1.mT), -(ends @ gates.mT)
        nets, ends = (units - target_units).split([3, 2], dim=1)  # M'(k) - M'(v)
        return keys - values + nets @ w1.mT, ends @ gates.mT


def _one_token_earlier(b, decay):
    """b_(t - 1) (..., C, 1), and b_(t - 1) / b_s for s < t, else 0, (..., C, C), of ``decays``."""
    b = pad(b[..., :-1, :], (0, 0, 1, 0), value=1.0)  # b_0 = 1
    return b, pad(decay[..., :-1, :], (0, 0, 1, 0))


def _written(matrix, inputs, deltas, erase, decay, before_token, was_read=None):
    """U (..., C, O) of W_t = b_t W + sum_(s <= t) (b_t / b_s) u_s i_s^T (..., O, D), by the rule W
    <- W (a I - erase i i^T) + delta i^T, and the last W; ``was_read`` is W i (..., C, O), if known.
    """
    was_read = inputs @ matrix.mT if was_read is None else was_read
    (b, decay), (b_before, decay_before) = decay, before_token
    lower = erase * decay_before * (inputs @ inputs.mT)
    u = inverse(lower) @ torch.addcmul(deltas, -erase * b_before, was_read)
    return u, b[..., -1:, :] * matrix + u.mT @ (decay[..., -1, :, None] * inputs)


def _by_memory(x, count):
    """(B, count, C, D) of (B, C, count D)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _main(x):
    """What is the main memory's (B, ...) of (B, M, ...)."""
    return x.split([1, x.shape[1] - 1], dim=1)[0].squeeze(1)
