"""Self-modifying Titans: five memories that learn while they read, and choose their own targets.

State: five small nets per sample.  It sees: tokens, and its own answers to their values.  Clock:
every token, with gradients at the weights from the start of its chunk.
Letters: B samples, T tokens, D width, H heads, E = D / H, N = B H, C tokens of a chunk, P writes of
a token, M = 5 memories. The first is the main memory, which is read. The others make a token's key,
value, rate and forgetting, in this order.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 82-93.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nested.levels.forward import Params
from nested.memory.gates import Gate, HardGate
from nested.memory.heads import check_heads, join_heads, split_heads
from nested.memory.level import Level, count_parameters
from nested.memory.linear import check_objective, decays
from nested.memory.net import (
    SHORTEST,
    clamp_min,
    damping,
    random_matrix,
    silu_and_slope,
    solve_lower,
    squared,
    unit,
    widened,
)
from nested.memory.sequence import ChunkedMemory, check_truncation
from nested.memory.state import count_numbers
from nested.support.checks import check_counts

READS = ("now", "start")


class SelfModifyingTitans(ChunkedMemory):
    """Five nets per sample. Three have D outputs, M(z) = z + W1 silu(W2 z); those of the rate and
    the forgetting have one, M(z) = W1 silu(W2 z). For each token x, at its chunk's first weights,

        q = unit(W_q x), k = unit(S_k x + W1 silu(W2 x)), v = unit(S_v x + W1 silu(W2 x)),
        n = rate(M_n(x)), see below, a = 1 - forgetting(M_a(x)),
        L = 1/2 |M'(k) - M'(v)|^2 ("l2", eq. 93) or -<M'(k), M'(v)> ("dot", eq. 92)

    for each net M' of the five. The inner gradient treats the target M'(v) as a constant. A matrix
    W has the input i = k (W2) or i = silu(W2 k) (W1), and i^ = unit(i). It moves by

        W <- W (a I - n i^ i^^T) - c n dL/dW,     y = M(q).

    The factor c is 1 in the paper. Here it is ``damping``, under 1 where a step would overshoot.
    With "l2" the decay acts twice, as printed in the paper: a memory that meets (k, v) for ever
    holds half of its target. ``reads`` chooses between the paper's two ways to read: with "now" a
    read uses the weights after its token's write (eq. 82). With "start" it uses the weights from
    the start of the chunk (eq. 90), and misses what the last ``chunk`` tokens wrote.

    The W1 of the main memory differs from the paper in three ways. It writes at a rate of its own,
    m in [0, 1] ("l2") or [0, 2] ("dot"), from the same output of the rate's memory. Each write uses
    the error after all earlier writes, with c = 1 / max(|i|^2, 0.1). And its target is v, not M(v).
    So it is a delta rule on hidden units, and at its top rate it reflects what stands at a key.
    With the paper's own target a rate over 2/3 is not stable.

    All other matrices make what later tokens write, as keys, values, rates or hidden units. So they
    have to move little. Their rate is n = 4 s (1 - s) rate(M_n(x)) with s = m / its top. A token
    that only flips a state, or keeps it, writes nothing to them. If the rules moved at each flip,
    keys would drift, and the state with them.

    The maps S, ``skip_key`` and ``skip_value`` (P D, D), are ours; the paper has S = I. Key and
    value of one x then both start as the token itself, and training must separate them first. The
    benchmark ``recall`` measures it.

    With ``products`` = P a token makes P writes, and is read after the last one. Each write has
    maps S of its own, and the rules see the token plus ``shifts`` (P, D) of the write. ``heads`` =
    H splits the width, E = D / H, and each head has five nets of its own.

    The rate of the rules starts at the smaller of 0.19 / ``chunk`` and E / 4,096, divided by P. It
    stays under 1 / (P ``chunk``). Forgetting starts at 5e-5 and stays under 0.05. The first weights
    ``w2`` (M, D, E), ``w1`` (3, D, E), ``rate_gates`` and ``decay_gates`` (H, 1, E) are parameters.
    The state is {"position", "memory": {"start", "now"}}, each {"w1", "w2", "gates": (B, ...)}.
    Raises ``ValueError`` for another objective or ``reads``, for ``products`` under 1, unless D is
    a multiple of ``heads``, and as ``SequenceMemory`` does. It refuses a ``detach_every`` that
    divides ``chunk``: the first weights of the rules would learn from the first chunk only.
    """

    has_keys = True

    def __init__(
        self,
        dim: int,
        objective: str = "l2",
        chunk: int = 64,
        *,
        heads: int = 1,
        products: int = 1,
        reads: str = "now",
        detach_every: int | None = None,
    ) -> None:
        super().__init__(dim, chunk, detach_every=detach_every)
        check_objective(objective)
        check_truncation(detach_every, chunk)
        if reads not in READS:
            raise ValueError(f"reads is one of {READS}, but got {reads!r}")
        check_heads(dim, heads)
        check_counts(products=products)
        self.objective, self.reads, self.heads, size = objective, reads, heads, dim // heads
        self.products, writes = products, products * chunk
        self.query = nn.Linear(dim, dim, bias=False)
        self.skip_key = nn.Linear(dim, products * dim, bias=False)
        self.skip_value = nn.Linear(dim, products * dim, bias=False)
        if products > 1:  # what the rules see of the write beside its token
            self.shifts = nn.Parameter(torch.randn(products, dim))
        # a random token erases 1 / E of what its rate would
        rate = min(0.19, size * chunk / 4096) / writes  # 0.003 for chunks of 64
        self.rate = Gate(1e-4 / writes, rate, 1 / writes)
        top = 1.0 if objective == "l2" else 2.0
        self.main_rate = HardGate(top / 2, top)
        self.forgetting = Gate(1e-6, 5e-5, 0.05)
        self.w2 = random_matrix(5, dim, size, size=2.0)
        self.w1 = random_matrix(3, dim, size, size=0.03)  # keys and values start near S x
        # small: the starts of the gates decide first
        self.rate_gates, self.decay_gates = (
            random_matrix(heads, 1, size, size=0.1) for _ in range(2)
        )
        with torch.no_grad():
            self.w1[0] = 0  # the main memory knows nothing yet

    def clocks(self) -> dict[str, int]:
        name, memory_period = type(self).__name__, 1 if self.reads == "now" else self.chunk
        return {f"{name}, memory": memory_period, f"{name}, its rules": self.chunk}

    def describe(self) -> list[Level]:
        (memory, memory_period), (rules, rules_period) = self.clocks().items()
        # of the main memory: W1 and W2 at the chunk's start and now, and their first values
        size = self.dim**2 // self.heads
        numbers, parameters = 4 * size, 2 * size
        numbers_of_rules = count_numbers(self.begin(1)) - numbers
        parameters_of_rules = count_parameters(self) - parameters
        sees = "keys of tokens, and its own answers to their values"
        return [
            Level(memory, f"{numbers:,}", sees, memory_period, parameters),
            Level(rules, f"{numbers_of_rules:,}", sees, rules_period, parameters_of_rules),
        ]

    def weights(self, batch_size: int) -> Params:
        gates = torch.stack([self.rate_gates, self.decay_gates]).squeeze(2)
        first = {"w1": self.w1, "w2": self.w2, "gates": gates}
        return {name: w.expand(batch_size, *w.shape) for name, w in first.items()}

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        x, before = self.tokens_and_keys(x)
        keys, values = self.skip_key(before), self.skip_value(x)
        of_writes = zip(*(part.chunk(self.products, dim=-1) for part in (keys, values)))
        skips = [split_heads(part, self.heads) for pair in of_writes for part in pair]
        queries = unit(split_heads(self.query(x), self.heads))
        parts = (split_heads(part, self.heads) for part in (x, before))
        return *parts, torch.cat(skips, dim=-1), queries

    def step(
        self,
        projected: tuple[Tensor, ...],
        start: Params,
        now: Params,
        write: Tensor | None = None,
    ) -> tuple[Tensor, Params]:
        if self.heads == 1:
            return self._step(projected, start, now, write)
        write = None if write is None else write.repeat_interleave(self.heads, 0)
        folded = {name: self._fold(w) for name, w in start.items()}
        folded_now = folded if now is start else {name: self._fold(w) for name, w in now.items()}
        y, after = self._step(projected, folded, folded_now, write)
        unfolded = (w.unflatten(0, (-1, self.heads)).transpose(1, 2) for w in after.values())
        after = {name: w.flatten(2, 3) for name, w in zip(after, unfolded)}
        return join_heads(y, self.heads), after

    def _fold(self, w: Tensor) -> Tensor:
        """Give each head a row of the batch: from (B, M, H R, E) to (B H, M, R, E)."""
        return w.unflatten(2, (self.heads, -1)).transpose(1, 2).flatten(0, 1)

    def _step(
        self,
        projected: tuple[Tensor, ...],
        start: Params,
        now: Params,
        write: Tensor | None,
    ) -> tuple[Tensor, Params]:
        """``step`` for samples with one head each."""
        if self.products > 1:
            projected, write = self._by_write(*projected, write)
        x, before, skips, queries = projected  # (B, C, D) each, but skips (B, C, 2 D)
        keys_values, *chosen = self._apply_rules(x, before, skips, start)
        if write is not None:
            chosen = [part.masked_fill(~write[:, None, :, None], 0) for part in chosen]  # W <- 1 W
        rates, main_rates, log_kept = chosen
        gradients = self._gradients(keys_values, rates, main_rates, start)
        # n i^ i^^T = (n / |i|^2) i i^T
        sizes = gradients.unit_sizes
        parts = 2 if self.objective == "l2" else 1  # decay, and the error of "l2"
        main_size, other_sizes = sizes.split([1, 4], dim=1)
        erased_main = parts * main_rates / clamp_min(main_size, SHORTEST)
        erased = torch.cat([erased_main, rates / clamp_min(other_sizes, 1e-8)], dim=1)

        decay = Decay.of(log_kept.squeeze(-1))
        nets, ends = gradients.units.split([3, 2], dim=1)  # inputs of W1 and of the gates
        erased_w1, erased_gates = erased.split([3, 2], dim=1)
        u1, w1 = written(now["w1"], nets, gradients.w1, erased_w1, decay)
        _, gates = written(now["gates"], ends, gradients.gates, erased_gates, decay)

        # all five W2 have the same input, the key: one tall matrix (B, M D, D)
        keys, w2 = keys_values.unbind(1)[0], now["w2"].flatten(1, 2)
        decay = Decay(*(part.squeeze(1) for part in decay))
        product = gradients.w2_keys if now is start else keys @ w2.mT
        u2, w2 = written(w2, keys, gradients.w2, rates.squeeze(1), decay, product)
        after = {"w1": w1, "w2": w2.unflatten(1, (5, -1)), "gates": gates}

        # y = M(q)
        if self.reads == "start":
            units = silu(queries @ main_memory(start["w2"]).mT)
            y = queries + units @ main_memory(start["w1"]).mT
        else:
            u2 = u2.split(self.dim // self.heads, dim=-1)[0]
            units = silu(at_each_token(queries, main_memory(now["w2"]), keys, u2, decay))
            w1, nets, u1 = (main_memory(part) for part in (now["w1"], nets, u1))
            y = queries + at_each_token(units, w1, nets, u1, decay)
        return y[:, self.products - 1 :: self.products], after

    def _by_write(
        self, x: Tensor, before: Tensor, skips: Tensor, queries: Tensor, write: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Repeat what each token brings for its P writes: tensors (N, C, ...) become (N, C P, ...).

        The rules read x + shift of the write, and ``skips`` (N, C, 2 P E) become (N, C P, 2 E)."""
        shifts = split_heads(self.shifts[None], self.heads)  # (H, P, E)
        shifts = shifts.repeat(len(x) // self.heads, 1, 1)[:, None]
        parts = (
            *((part[:, :, None] + widened(shifts)).flatten(1, 2) for part in (x, before)),
            skips.unflatten(-1, (self.products, -1)).flatten(1, 2),
            queries.repeat_interleave(self.products, 1),
        )
        return parts, None if write is None else write.repeat_interleave(self.products, 1)

    def _apply_rules(
        self, x: Tensor, before: Tensor, skips: Tensor, start: Params
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Let the rule of keys read ``before`` and the other three x, (B, C, D) each, given
        ``skips`` (B, C, 2 D), what the maps S make of both.

        Returns keys and values (B, 2, C, D), both rates and log retentions (B, 1, C, 1).
        """
        w1, w2 = start["w1"].split([1, 2], dim=1)[1], start["w2"].split([1, 4], dim=1)[1]
        # split, because the backward of a slice is slow
        w2_key, w2_others = w2.split([1, 3], dim=1)
        products = before @ w2_key.squeeze(1).mT, x @ w2_others.flatten(1, 2).mT
        units = silu(by_memory(torch.cat(products, dim=-1), 4))  # silu(W2 x), (B, 4, C, D)
        units_nets, units_gates = units.split(2, dim=1)
        keys_values = unit(by_memory(skips, 2) + units_nets @ w1.mT)
        rate, forgetting = (units_gates @ start["gates"].mT).split(1, dim=1)
        log_kept = self.forgetting.log_rest(forgetting)
        if self.products > 1:  # a token forgets once, before its first write
            later = torch.arange(x.shape[1], device=x.device) % self.products > 0
            log_kept = log_kept.masked_fill(later[:, None], 0)
        main_rate = self.main_rate(rate)
        share = main_rate if self.objective == "l2" else main_rate / 2
        return keys_values, 4 * share * (1 - share) * self.rate(rate), main_rate, log_kept

    def _gradients(
        self, keys_values: Tensor, rates: Tensor, main_rates: Tensor, start: Params
    ) -> Gradients:
        """Take the inner gradients of all five memories at the weights ``start``. Of the main W1
        it takes only what does not depend on W1. ``written`` takes that error token by token."""
        w1, w2, gates = start["w1"], start["w2"], start["gates"]
        products = keys_values.flatten(1, 2) @ w2.flatten(1, 2).mT  # (B, 2 C, M D)
        w2_keys, w2_values = products.chunk(2, dim=1)
        units, slopes = silu_and_slope(by_memory(w2_keys, 5))  # (B, M, C, D)
        target_units = silu(by_memory(w2_values, 5))
        error, error_gates = self._errors(keys_values, units, target_units, w1, gates)

        # dL/d(W2 k) = (W1^T dL/dM'(k)) s'(W2 k)
        back = torch.cat([error @ w1, error_gates * gates], dim=1) * slopes  # (B, M, C, D)
        unit_sizes = squared(units)
        error_sizes = torch.cat([squared(error), squared(error_gates)], dim=1)
        steps = -rates * damping(unit_sizes, error_sizes, squared(back))  # -c n, (B, M, C, 1)
        steps_w1, steps_gates = steps.split([3, 2], dim=1)
        keys, values = keys_values.split(1, dim=1)
        target = values - keys if self.objective == "l2" else values
        main_size = unit_sizes.split([1, 4], dim=1)[0]
        main = main_rates / clamp_min(main_size, SHORTEST) * target
        _, steps_of_rules = steps_w1.split([1, 2], dim=1)
        _, errors_of_rules = error.split([1, 2], dim=1)
        return Gradients(
            w1=torch.cat([main, steps_of_rules * errors_of_rules], dim=1),
            gates=steps_gates * error_gates,
            w2=(steps * back).transpose(1, 2).flatten(2),
            units=units,
            unit_sizes=unit_sizes,
            w2_keys=w2_keys,
        )

    def _errors(
        self, keys_values: Tensor, units: Tensor, target_units: Tensor, w1: Tensor, gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """dL/dM'(k) of the three nets (B, 3, C, D) and of the two gates (B, 2, C, 1)."""
        keys, values = keys_values.split(1, dim=1)
        if self.objective == "dot":  # -M'(v)
            nets, ends = target_units.split([3, 2], dim=1)
            return -(values + nets @ w1.mT), -(ends @ gates.mT)
        nets, ends = (units - target_units).split([3, 2], dim=1)  # M'(k) - M'(v)
        return keys - values + nets @ w1.mT, ends @ gates.mT


class Gradients(NamedTuple):
    """The inner gradients of one chunk, each as -c n dL/d(W i) of a matrix W with input i.

    ``w1`` (B, 3, C, D), ``gates`` (B, 2, C, 1) and ``w2`` (B, C, M D), the five W2 side by side.
    ``units`` (B, M, C, D) are silu(W2 k), and ``unit_sizes`` (B, M, C, 1) their squared lengths.
    ``w2_keys`` (B, C, M D) are W2 k.
    """

    w1: Tensor
    gates: Tensor
    w2: Tensor
    units: Tensor
    unit_sizes: Tensor
    w2_keys: Tensor


class Decay(NamedTuple):
    """Products b_t = a_1 ... a_t of the retentions in a chunk.

    ``power`` (..., C, 1) holds b_t, and ``ratio`` (..., C, C) holds b_t / b_s for s <= t, else 0.
    ``earlier_power`` and ``earlier_ratio`` hold the same one token earlier: b_(t-1), and
    b_(t-1) / b_s for s < t.
    """

    power: Tensor
    ratio: Tensor
    earlier_power: Tensor
    earlier_ratio: Tensor

    @classmethod
    def of(cls, log_kept: Tensor) -> Decay:
        """Multiply up the retentions whose logarithms (..., C) come in."""
        power, ratio = decays(log_kept)
        earlier_power = pad(power[..., :-1, :], (0, 0, 1, 0), value=1.0)  # b_0 = 1
        return cls(power, ratio, earlier_power, pad(ratio[..., :-1, :], (0, 0, 1, 0)))


def written(
    matrix: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    erased: Tensor,
    decay: Decay,
    product: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Write a chunk to W = ``matrix`` (..., O, D) by W <- W (a I - e i i^T) + g i^T.

    Takes inputs i (..., C, D), gradients g (..., C, O), ``erased`` e (..., C, 1), and ``product``
    W i (..., C, O) if it is known. Returns U (..., C, O) and the last W (..., O, D), where

        W_t = b_t W + sum_(s <= t) (b_t / b_s) u_s i_s^T,
        u_t = g_t - e_t b_(t-1) W i_t - e_t sum_(s < t) (b_(t-1) / b_s) (i_s . i_t) u_s.
    """
    product = inputs @ matrix.mT if product is None else product
    lower = erased * decay.earlier_ratio * (inputs @ inputs.mT)
    right = torch.addcmul(gradients, -erased * decay.earlier_power, product)
    u = solve_lower(lower, right)
    last_ratio = decay.ratio[..., -1, :, None]  # (..., C, 1)
    return u, decay.power[..., -1:, :] * matrix + u.mT @ (last_ratio * inputs)


def at_each_token(z: Tensor, matrix: Tensor, inputs: Tensor, u: Tensor, decay: Decay) -> Tensor:
    """Compute W_t z_t (B, C, O) for z (B, C, D) without writing out any W_t of ``written``."""
    return decay.power * (z @ matrix.mT) + (decay.ratio * (z @ inputs.mT)) @ u


def by_memory(x: Tensor, count: int) -> Tensor:
    """Split x (B, C, N D), made by N = ``count`` memories, into (B, N, C, D)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def main_memory(x: Tensor) -> Tensor:
    """Select the part (B, ...) of the main memory from x (B, M, ...)."""
    return x.split([1, x.shape[1] - 1], dim=1)[0].squeeze(1)
