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
from torch.nn.functional import silu

from nested.levels.forward import Params
from nested.memory.gates import Gate
from nested.memory.linear import decays
from nested.memory.net import (
    damping,
    random_matrix,
    short_query_projection,
    silu_and_slope,
    squared,
    unit,
)
from nested.memory.sequence import ChunkedMemory


class TitansMemory(ChunkedMemory):
    """A net M(z) = z + W1 silu(W2 z) per sample that learns to map keys k to values v:

        S_t = mu_t S_(t-1) - (1 - mu_t) c_t n_t dL/dW      surprise: a momentum of gradients
        W_t = a_t W_(t-1) + S_t                            weights, with forgetting
        y_t = M_t(q_t),     L = 1/2 |M(k_t) - v_t|^2

    for W = W1 and W2, with q, k, v = unit(W x). A gradient is taken at the weights from the start
    of its chunk of ``chunk`` tokens, and a read uses the weights after its token. With ``chunk`` 1
    this is gradient descent, token by token. The paper's step size is (1 - mu) c n here, where c is
    the ``damping``: it stays bounded for all gates and weights, also if one key comes for ever.
    Gates of x choose the rate n in (1e-4, 1) / chunk, the momentum mu in (0.01, 0.95) and the
    retention a = 1 - forgetting, with forgetting in (1e-6, 0.1).

    The first weights ``w1``, ``w2`` (D, D) are parameters. They start with M(z) = z and hidden
    units of length 1, because the output of a random W1 would drown what is written. The state is
    {"position", "memory": {"start", "now"}}, each {"w1", "w2", "s1", "s2": (B, D, D)}. Raises as
    ``SequenceMemory`` does.
    """

    def __init__(self, dim: int, chunk: int = 64, *, detach_every: int | None = None) -> None:
        super().__init__(dim, chunk, detach_every=detach_every)
        self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.query = short_query_projection(dim)
        self.choose = nn.Linear(dim, 3, bias=False)
        nn.init.zeros_(self.choose.weight)  # at first the gates ignore x
        self.rate = Gate(1e-4 / chunk, 0.5 / chunk, 1 / chunk)
        self.momentum, self.forgetting = Gate(0.01, 0.5, 0.95), Gate(1e-6, 1e-4, 0.1)
        self.w1, self.w2 = nn.Parameter(torch.zeros(dim, dim)), random_matrix(dim, dim, size=2.0)

    def weights(self, batch_size: int) -> Params:
        shape = (batch_size, self.dim, self.dim)
        w1, w2 = self.w1.expand(shape), self.w2.expand(shape)
        no_surprise = self.w1.new_zeros(shape)
        return {"w1": w1, "w2": w2, "s1": no_surprise, "s2": no_surprise}

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute queries, keys and values (B, T, D), rates (1 - mu) n, log mu and log a (B, T)."""
        vectors = [unit(part(x)) for part in (self.query, self.key, self.value)]
        rate, momentum, forgetting = self.choose(x).unbind(-1)
        log_mu = self.momentum.log(momentum)
        rates = (1 - log_mu.exp()) * self.rate(rate)
        return *vectors, rates, log_mu, self.forgetting.log_rest(forgetting)

    def step(
        self, projected: tuple[Tensor, ...], start: Params, now: Params
    ) -> tuple[Tensor, Params]:
        queries, keys, values, rates, log_mu, log_kept = projected
        # dL/dW1 = error units^T and dL/dW2 = back k^T, at the weights of the start
        units, slopes = silu_and_slope(keys @ start["w2"].mT)  # (B, C, D)
        error = keys + units @ start["w1"].mT - values  # dL/dM(k), (B, C, D)
        back = (error @ start["w1"]) * slopes  # dL/d(W2 k), (B, C, D)
        rates = rates * damping(squared(units), squared(error), squared(back)).squeeze(-1)

        # W_t = kept_t W + carried_t S - sum_(s <= t) share_ts dL_s/dW, with W, S of before
        mu_powers, mu_ratios = decays(log_mu)  # (B, C, 1), (B, C, C)
        kept, kept_ratios = decays(log_kept)
        carried = kept_ratios @ mu_powers  # (B, C, 1)
        share = kept_ratios @ mu_ratios * rates[:, None]  # (B, C, C)

        def at_each_token(
            z: Tensor, inputs: Tensor, deltas: Tensor, w: Tensor, s: Tensor
        ) -> Tensor:
            """W_t z_t, (B, C, D), where no W_t is ever written out."""
            old = torch.cat([kept * z, carried * z], dim=-1) @ torch.cat([w, s], dim=-1).mT
            return old - (share * (z @ inputs.mT)) @ deltas

        units_read = silu(at_each_token(queries, keys, back, now["w2"], now["s2"]))
        y = queries + at_each_token(units_read, units, error, now["w1"], now["s1"])

        last_share = share[:, -1, :, None]  # (B, C, 1)
        last_surprise = (mu_ratios[:, -1] * rates)[..., None]
        after = {}
        for n, inputs, deltas in (("1", units, error), ("2", keys, back)):
            w, s = now["w" + n], now["s" + n]
            old = kept[:, -1:] * w + carried[:, -1:] * s
            after["w" + n] = old - (last_share * deltas).mT @ inputs
            after["s" + n] = mu_powers[:, -1:] * s - (last_surprise * deltas).mT @ inputs
        return y, {name: after[name] for name in now}  # exported programs need one order
