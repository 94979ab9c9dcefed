"""Titans: a small net that learns while it reads, by gradient descent with momentum.

State: the weights of the net and their momentum, per sample.  It sees: keys and values of tokens.
Clock: every token, with gradients at the weights from the start of its chunk.
Letters: B samples, T tokens, D width, C tokens of a chunk, H heads, E = D / H, N = B H.
Source: Behrouz, Zhong, Mirrokni 2025 (arXiv 2501.00663), eq. 8-14, with the skip of Behrouz et al.
2025 (arXiv 2512.24695), eq. 89.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nested.levels.forward import Params
from nested.memory.gates import Gate, HardGate
from nested.memory.heads import check_heads, join_heads, split_heads, split_rows
from nested.memory.linear import decays
from nested.memory.net import (
    SHORTEST,
    clamp_min,
    damping,
    plus_product,
    random_matrix,
    silu_and_slope,
    solve_lower,
    squared,
    unit,
    zero_projection,
)
from nested.memory.sequence import ChunkedMemory


class TitansMemory(ChunkedMemory):
    """A net per sample that learns to map keys k to values v. It is M(z) = z + W1 silu(W2 z).

    One token changes and reads it so:

        e_t = M_(t-1)(k_t) - v_t                       the error before the write
        W1 <- a W1 - n e i^T / max(|i|^2, 0.1)         a delta rule on the hidden units i
        S <- mu S - (1 - mu) h k^T                     surprise: a momentum of gradients
        W2 <- a W2 + S                                 hidden units move slowly
        y_t = M_t(q_t)

    with q, k, v = unit(W x). Hidden units are i = silu(W2 k), with W2 from the start of a chunk of
    ``chunk`` tokens. A read uses the weights after its token. A write to W1 brings M(k) to v at a
    rate n of 1, and reflects M(k) about v at 2. Gates of x choose n in [0, 2], the momentum mu in
    (0.001, 0.8) and the retention a = 1 - forgetting, with forgetting in (1e-6, 0.1).

    The gradient of W2 is h = n (1 - n / 2) c dL/d(W2 k) / ``chunk``. The loss is L = 1/2 |e|^2, and
    its error goes back through the W1 of the chunk's start. The ``damping`` c bounds the writes to
    W2. At a rate of 2, the writes of values that alternate at one key add up, and only forgetting
    bounds their sum.

    In the paper both matrices take gradients of the chunk's start, with momentum. Their rate has to
    stay under 1 / ``chunk``, so a fact that comes once is stored in part only. W1 has no momentum
    here. With rates up to 2, momentum erases a state that flips, and momentum that changes from
    token to token can make a memory grow.

    ``heads`` = H splits the width: H nets of width E = D / H, each with keys, values and gates of
    its own. The first weights ``w1``, ``w2`` (D, E) are parameters, heads one above the other. They
    start with M(z) = z and hidden units of length 1, because the output of a random W1 would drown
    what is written. The state is {"position", "memory": {"start", "now"}}, each {"w1", "w2", "s":
    (B, D, E)}. Raises ``ValueError`` unless D is a multiple of ``heads``, and as ``SequenceMemory``
    does.
    """

    has_keys = True

    def __init__(
        self, dim: int, chunk: int = 64, *, heads: int = 1, detach_every: int | None = None
    ) -> None:
        super().__init__(dim, chunk, detach_every=detach_every)
        check_heads(dim, heads)
        self.heads, size = heads, dim // heads
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        # two maps, because weight decay should act on momentum and forgetting and not on rates
        self.choose_rate = zero_projection(dim, heads)
        self.choose_decay = zero_projection(dim, 2 * heads)
        self.rate = HardGate(1.0, 2.0, heads)
        self.momentum = Gate(1e-3, 0.1, 0.8, heads)
        self.forgetting = Gate(1e-6, 1e-4, 0.1, heads)
        self.w1, self.w2 = nn.Parameter(torch.zeros(dim, size)), random_matrix(dim, size, size=2.0)

    def weights(self, batch_size: int) -> Params:
        shape = (batch_size, self.dim, self.dim // self.heads)
        w1, w2 = self.w1.expand(shape), self.w2.expand(shape)
        return {"w1": w1, "w2": w2, "s": self.w1.new_zeros(shape)}

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute queries, keys and values (N, T, E), rates n, log mu and log a (N, T), N = B H."""
        x, before = self.tokens_and_keys(x)
        parts = (self.query(x), self.key(before), self.value(x))
        vectors = [unit(split_heads(part, self.heads)) for part in parts]
        momentum, forgetting = self.choose_decay(x).chunk(2, dim=-1)
        gates = (
            self.rate(self.choose_rate(x)),
            self.momentum.log(momentum),
            self.forgetting.log_rest(forgetting),
        )
        return *vectors, *(split_heads(gate, self.heads).squeeze(-1) for gate in gates)

    def step(
        self,
        projected: tuple[Tensor, ...],
        start: Params,
        now: Params,
        write: Tensor | None = None,
    ) -> tuple[Tensor, Params]:
        queries, keys, values, *gates = projected
        if write is not None:
            write = write.repeat_interleave(self.heads, 0)  # (N, C)
            gates = [gate.masked_fill(~write, 0) for gate in gates]  # W <- 1 W, S <- 1 S
        rates, log_mu, log_kept = gates
        samples = len(now["w1"])
        start, now = (
            {name: split_rows(w, self.heads) for name, w in weights.items()}
            for weights in (start, now)
        )
        units, slopes = silu_and_slope(keys @ start["w2"].mT)  # (N, C, E)
        decay = decays(log_kept)
        deltas = self._gradients(keys - values, units, slopes, rates[..., None], decay, start, now)
        hidden, w2, s = self._write_w2(queries, keys, deltas[1], log_mu, decay, now, write)

        # W1_t z = b_t W1 z - sum_(s <= t) (b_t / b_s) g_s (i_s . z)
        kept, ratios = decay  # (N, C, 1), (N, C, C)
        y = plus_product(kept * (hidden @ now["w1"].mT), ratios * (hidden @ units.mT), deltas[0])
        last = ratios[:, -1, :, None] * deltas[0]
        w1 = plus_product(kept[:, -1:] * now["w1"], last.mT, units)
        after = {"w1": w1, "w2": w2, "s": s}
        after = {name: w.reshape(samples, self.dim, -1) for name, w in after.items()}
        return join_heads(queries + y, self.heads), after

    def _gradients(
        self,
        target: Tensor,
        units: Tensor,
        slopes: Tensor,
        rates: Tensor,
        decay: tuple[Tensor, Tensor],
        start: Params,
        now: Params,
    ) -> tuple[Tensor, Tensor]:
        """Compute -n e / max(|i|^2, 0.1) of W1 and -h of W2, (N, C, E) each, for a chunk.

        ``target`` is k - v. The errors e_t = M_(t-1)(k_t) - v_t solve one triangular system."""
        kept, ratios = decay
        sizes = squared(units)  # (N, C, 1)
        n = rates / clamp_min(sizes, SHORTEST)
        errors = target + earlier(kept, 1) * (units @ now["w1"].mT)
        errors = solve_lower(earlier(ratios, 0) * (units @ (n * units).mT), errors)
        # the error goes back through W1 as it was at the start
        back = (errors @ start["w1"]) * slopes
        slower = rates * (1 - rates / 2) / self.chunk
        slower = slower * damping(sizes, squared(errors), squared(back))
        return -n * errors, -slower * back

    def _write_w2(
        self,
        queries: Tensor,
        keys: Tensor,
        deltas: Tensor,
        log_mu: Tensor,
        decay: tuple[Tensor, Tensor],
        now: Params,
        write: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return silu(W2_t q_t) (N, C, E), and W2 and S after the chunk, (N, E, E) each.

        W2_t = b_t W2 + carried_t S - sum_(s <= t) share_ts h_s k_s^T, with W2 and S of before."""
        (kept, ratios), (mu_powers, mu_ratios) = decay, decays(log_mu)  # (N, C, 1), (N, C, C)
        if write is not None:
            ratios = ratios * write[:, None]  # W2 takes no S of a token not written
        pushes = mu_ratios * (1 - log_mu.exp())[:, None]
        carried, share = ratios @ mu_powers, ratios @ pushes

        w2, s = now["w2"], now["s"]
        old = torch.cat([kept * queries, carried * queries], dim=-1) @ torch.cat([w2, s], dim=-1).mT
        hidden = silu(plus_product(old, share * (queries @ keys.mT), deltas))
        old = torch.addcmul(kept[:, -1:] * w2, carried[:, -1:], s)
        last_share, last_push = share[:, -1, :, None] * deltas, pushes[:, -1, :, None] * deltas
        s = plus_product(mu_powers[:, -1:] * s, last_push.mT, keys)
        return hidden, plus_product(old, last_share.mT, keys), s


def earlier(x: Tensor, first: float) -> Tensor:
    """Shift the rows of x (B, C, ...) to the next token; the row of the first one is ``first``."""
    return pad(x[:, :-1], (0, 0, 1, 0), value=first)
