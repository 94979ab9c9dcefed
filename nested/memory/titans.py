"""Titans: a small net that learns while it reads, by gradient descent with momentum.

State: the weights of the net and their momentum, per sample.  It sees: keys and values of tokens.
Clock: every token, with gradients at the weights from the start of its chunk.
Letters: B samples, T tokens, D width, C tokens of a chunk.
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
    inverse,
    plus_product,
    random_matrix,
    short_query_projection,
    silu_and_slope,
    squared,
    unit,
    zero_projection,
)
from nested.memory.sequence import ChunkedMemory


class TitansMemory(ChunkedMemory):
    """A net M(z) = z + W1 silu(W2 z) per sample that learns to map keys k to values v:

        S_t = mu_t S_(t-1) - (1 - mu_t) g_t i_t^T          surprise: a momentum of gradients
        W_t = a_t W_(t-1) + S_t                            weights, with forgetting
        y_t = M_t(q_t),     e_t = M_(t-1)(k_t) - v_t       the error before the write

    for W = W1 and W2, with q, k, v = unit(W x). The hidden units i = silu(W2 k) are those of the
    weights from the start of a chunk of ``chunk`` tokens, and a read uses the weights after its
    token. W1 takes g = n e / max(|i|^2, 0.1). Without momentum, this write brings M(k) to v at a
    rate n of 1, and reflects M(k) about v at 2. W2 takes g = n (1 - n / 2) c dL/d(W2 k) / ``chunk``
    with its input i = k, where L = 1/2 |e|^2 goes back through the W1 of the chunk's start. The
    ``damping`` c keeps the writes bounded for all gates and weights, also if one key comes for
    ever. Gates of x choose n in [0, 2], the momentum mu in (0.001, 0.95) and the retention
    a = 1 - forgetting, with forgetting in (1e-6, 0.1).

    In the paper both matrices take the gradients of the chunk's start, at a rate that has to stay
    under 1 / ``chunk`` to be stable. A fact that came once was then an eighth of a fact, in chunks
    of 8 tokens, and could not replace an older one.

    ``heads`` = H splits the width: H nets of width E = D / H, each with keys, values and gates of
    its own. The first weights ``w1``, ``w2`` (D, E) are parameters, heads one above the other. They
    start with M(z) = z and hidden units of length 1, because the output of a random W1 would drown
    what is written. The state is {"position", "memory": {"start", "now"}}, each {"w1", "w2", "s1",
    "s2": (B, D, E)}. Raises ``ValueError`` unless D is a multiple of ``heads``, and as
    ``SequenceMemory`` does.
    """

    def __init__(
        self, dim: int, chunk: int = 64, *, heads: int = 1, detach_every: int | None = None
    ) -> None:
        super().__init__(dim, chunk, detach_every=detach_every)
        check_heads(dim, heads)
        self.heads, size = heads, dim // heads
        self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.query = short_query_projection(dim)
        # two maps, because weight decay should act on momentum and forgetting and not on rates
        self.choose_rate = zero_projection(dim, heads)
        self.choose_decay = zero_projection(dim, 2 * heads)
        self.rate = HardGate(1.0, 2.0, heads)
        self.momentum = Gate(1e-3, 0.1, 0.95, heads)
        self.forgetting = Gate(1e-6, 1e-4, 0.1, heads)
        self.w1, self.w2 = nn.Parameter(torch.zeros(dim, size)), random_matrix(dim, size, size=2.0)

    def weights(self, batch_size: int) -> Params:
        shape = (batch_size, self.dim, self.dim // self.heads)
        w1, w2 = self.w1.expand(shape), self.w2.expand(shape)
        no_surprise = self.w1.new_zeros(shape)
        return {"w1": w1, "w2": w2, "s1": no_surprise, "s2": no_surprise}

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute queries, keys and values (N, T, E), rates n, log mu and log a (N, T), N = B H."""
        parts = (self.query(x), self.key(x), self.value(x))
        vectors = [unit(split_heads(part, self.heads)) for part in parts]
        momentum, forgetting = self.choose_decay(x).chunk(2, dim=-1)
        gates = (
            self.rate(self.choose_rate(x)),
            self.momentum.log(momentum),
            self.forgetting.log_rest(forgetting),
        )
        return *vectors, *(split_heads(gate, self.heads).squeeze(-1) for gate in gates)

    def step(
        self, projected: tuple[Tensor, ...], start: Params, now: Params
    ) -> tuple[Tensor, Params]:
        queries, keys, values, rates, log_mu, log_kept = projected
        samples, names = len(now["w1"]), list(now)
        start, now = (
            {name: split_rows(w, self.heads) for name, w in weights.items()}
            for weights in (start, now)
        )
        units, slopes = silu_and_slope(keys @ start["w2"].mT)  # (B, C, D)
        sizes, rates = squared(units), rates[..., None]  # (B, C, 1)

        # W_t = kept_t W + carried_t S - sum_(s <= t) share_ts g_s i_s^T, with W, S of before
        mu_powers, mu_ratios = decays(log_mu)  # (B, C, 1), (B, C, C)
        kept, kept_ratios = decays(log_kept)
        carried = kept_ratios @ mu_powers  # (B, C, 1)
        pushes = mu_ratios * (1 - log_mu.exp())[:, None]  # (B, C, C)
        share = kept_ratios @ pushes
        both = {n: torch.cat([now["w" + n], now["s" + n]], dim=-1).mT for n in "12"}  # [W, S]^T

        # W1: the errors e_t = M_(t-1)(k_t) - v_t of a chunk solve one triangular system
        old = torch.cat([earlier(kept, 1) * units, earlier(carried, 0) * units], dim=-1)
        errors = keys - values + old @ both["1"]
        n = rates / clamp_min(sizes, SHORTEST)
        errors = inverse(earlier(share, 0) * (units @ (n * units).mT)) @ errors  # (B, C, D)
        # W2: the error goes back through W1 as it was at the start
        back = (errors @ start["w1"]) * slopes
        slower = rates * (1 - rates / 2) / self.chunk
        slower = slower * damping(sizes, squared(errors), squared(back))
        writes = {"1": (units, -n * errors), "2": (keys, -slower * back)}  # {matrix: (i, -g)}

        def at_each_token(z: Tensor, matrix: str) -> Tensor:
            """W_t z_t, (B, C, D), where no W_t is ever written out."""
            inputs, deltas = writes[matrix]
            old = torch.cat([kept * z, carried * z], dim=-1) @ both[matrix]
            return plus_product(old, share * (z @ inputs.mT), deltas)

        y = queries + at_each_token(silu(at_each_token(queries, "2")), "1")

        last_share, last_push = share[:, -1, :, None], pushes[:, -1, :, None]  # (B, C, 1)
        after = {}
        for matrix, (inputs, deltas) in writes.items():
            w, s = now["w" + matrix], now["s" + matrix]
            old = torch.addcmul(kept[:, -1:] * w, carried[:, -1:], s)
            after["w" + matrix] = plus_product(old, (last_share * deltas).mT, inputs)
            old = mu_powers[:, -1:] * s
            after["s" + matrix] = plus_product(old, (last_push * deltas).mT, inputs)
        after = {name: after[name].reshape(samples, self.dim, -1) for name in names}
        return join_heads(y, self.heads), after  # exported programs need one order of names


def earlier(x: Tensor, first: float) -> Tensor:
    """Shift the rows of x (B, C, ...) to the next token; the row of the first one is ``first``."""
    return pad(x[:, :-1], (0, 0, 1, 0), value=first)
