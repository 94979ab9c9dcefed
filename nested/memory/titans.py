"""Titans: a small net that learns while it reads, by surprise with momentum.

State: the net's weights and their momentum, for each sample.  It sees: keys and values, made of
tokens.  Clock: every token, by gradients at the weights of the chunk's start.
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
    """A net M(z) = z + W1 silu(W2 z) of each sample, which learns values v by their keys k:

        S_t = mu_t S_(t-1) - (1 - mu_t) c_t n_t dL/dW      surprise, with momentum
        W_t = a_t W_(t-1) + S_t                            and forgetting
        y_t = M_t(q_t),     L = 1/2 |M(k_t) - v_t|^2

    for W1 and W2, with the gradient taken at the first weights of a chunk of ``chunk`` tokens (at
    1: gradient descent, token by token), while reads use the weights of their own token. q, k, v
    are unit(W x). The paper's step size is (1 - mu) c n here, c the ``damping``: it stays bounded,
    whatever gates and weights are, also where one key comes for ever. The rate n in
    (1e-4, 1) / chunk, the momentum mu in (0.01, 0.95) and the retention a = 1 - forgetting,
    forgetting in (1e-6, 0.1), are bounded functions of x.

    The first weights ``w1``, ``w2`` (D, D) are parameters, and begin with M(z) = z and hidden units
    of length 1: what a random W1 answers would drown what has been written. The state is
    {"position", "memory": {"start", "now"}}, each {"w1", "w2", "s1", "s2": (B, D, D)}. Raises as
    ``SequenceMemory`` does.
    """

    def __init__(self, dim: int, chunk: int = 64, *, detach_every: int | None = None) -> None:
        super().__init__(dim, chunk, detach_every=detach_every)
        self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.query = short_query_projection(dim)
        self.choose = nn.Linear(dim, 3, bias=False)
        nn.init.zeros_(self.choose.weight)  # gates start where their biases say
        self.rate = Gate(1e-4 / chunk, 0.5 / chunk, 1 / chunk)
        self.momentum, self.forgetting = Gate(0.01, 0.5, 0.95), Gate(1e-6, 1e-4, 0.1)
        self.w1, self.w2 = nn.Parameter(torch.zeros(dim, dim)), random_matrix(dim, dim, size=2.0)

    def weights(self, batch_size: int) -> Params:
        shape = (batch_size, self.dim, self.dim)
        still = self.w1.new_zeros(shape)
        w1, w2 = self.w1.expand(shape), self.w2.expand(shape)
        return {"w1": w1, "w2": w2, "s1": still, "s2": still}

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        made = [unit(part(x)) for part in (self.query, self.key, self.value)]
        rate, momentum, forgetting = self.choose(x).unbind(-1)
        log_mu = self.momentum.log(momentum)
        rates = (1 - log_mu.exp()) * self.rate(rate)
        return *made, rates, log_mu, self.forgetting.log_rest(forgetting)

    def step(self, seen: tuple[Tensor, ...], start: Params, now: Params) -> tuple[Tensor, Params]:
        queries, keys, values, rates, log_mu, log_kept = seen
        units, slopes = silu_and_slope(keys @ start["w2"].mT)
        off = keys + units @ start["w1"].mT - values  # dL/dM(k)
        back = (off @ start["w1"]) * slopes  # so that dL/dW1 = off units^T, dL/dW2 = back k^T
        rates = rates * damping(squared(units), squared(off), squared(back)).squeeze(-1)
        carried, of_surprise = decays(log_mu)  # (B, C, 1), (B, C, C)
        kept, of_weights = decays(log_kept)
        both = of_weights @ of_surprise * rates[:, None]  # what token t keeps of token s's gradient
        stirred = of_weights @ carried  # and of the surprise before the chunk

        def at_each_token(z, inputs, deltas, w, s):  # W_t z_t, with no W_t ever written out
            old = torch.cat([kept * z, stirred * z], dim=-1) @ torch.cat([w, s], dim=-1).mT
            return old - (both * (z @ inputs.mT)) @ deltas

        units_read = silu(at_each_token(queries, keys, back, now["w2"], now["s2"]))
        y = queries + at_each_token(units_read, units, off, now["w1"], now["s1"])

        of_gradient, surprise = both[:, -1, :, None], (of_surprise[:, -1] * rates)[..., None]
        after = {}
        for n, inputs, deltas in (("1", units, off), ("2", keys, back)):
            w, s = now["w" + n], now["s" + n]
            old = kept[:, -1:] * w + stirred[:, -1:] * s
            after["w" + n] = old - (of_gradient * deltas).mT @ inputs
            after["s" + n] = carried[:, -1:] * s - (surprise * deltas).mT @ inputs
        return y, {name: after[name] for name in now}  # in one order, as exported programs ask
