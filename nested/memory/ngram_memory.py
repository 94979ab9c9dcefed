"""Remember what followed each n-gram: a matrix whose keys are codes of n-grams, and not learned.

State: a matrix per n.  It sees: values of tokens, codes of the tokens before.  Clock: every token.
Letters: B samples, T tokens, D width, N sizes of n-grams, K numbers of a code, E of a value.
Source: n-gram heads, Akyürek et al. 2024 (arXiv 2401.12973), here with a memory of constant size;
the delta rule as in ``LinearMemory``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nested.levels.forward import State
from nested.memory.gates import HardGate
from nested.memory.heads import split_heads
from nested.memory.linear import MatrixMemory
from nested.memory.net import widened, zero_projection
from nested.support.checks import check_counts

WIDTH = 48  # numbers of a value


class NGramMemory(MatrixMemory):
    """Recalls which token followed the last n tokens when they stood there before, for each of
    ``count`` numbers n:

        M <- M - r (M k - v) k^T,   y = W_o M q,

    with v = W_v x of the token x, its key k = the code of the n tokens before it, and q = the code
    of the n tokens that end with it. Codes of different n-grams are nearly orthogonal from the
    start, also of n-grams that training never showed. So nothing has to be learned about keys, and
    M can tell hundreds of them apart. A gate of x chooses the rate r in [0, 1]. At 1 a token
    replaces what followed the same n-gram before, and at 0 it is not written. Nothing else is
    forgotten. Before training all rates are 0.1, and W_o is zero. The first M is zero.

    A memory holds a few hundred n-grams, so a write that helps little leaves less room for later
    ones. Training does not see that cost, because gradients end at the window. So a write can have
    a ``price``, which is 0 unless ``set_price`` sets it. Each backward pass then adds the price
    times the rate to the loss, for each token.

    ``y, state = memory(x, state=None, keys=codes)`` with x and y (B, T, D) and codes (B, T + 1, N,
    K), of which codes[:, t] belongs to the tokens before token t. The state is {"position",
    "memory": {"matrix": (B, N E, K)}}. Raises ``ValueError`` for codes of another shape, and as
    ``MatrixMemory`` does.
    """

    sees = "values of tokens, and codes of the n-grams before them"

    def __init__(
        self,
        dim: int,
        count: int,
        code: int,
        chunk: int = 64,
        *,
        detach_every: int | None = None,
    ) -> None:
        super().__init__(dim, chunk=chunk, heads=count, detach_every=detach_every)
        check_counts(code=code)
        self.code, self.price = code, 0.0
        self.value = nn.Linear(dim, count * WIDTH, bias=False)
        self.out = zero_projection(count * WIDTH, dim)  # what nothing was learned for is noise
        self.choose_rate, self.rate = zero_projection(dim, count), HardGate(0.1, 1.0, count)

    def begin(self, batch_size: int) -> State:
        weight = self.value.weight
        return {"matrix": widened(weight.new_zeros(batch_size, len(weight), self.code))}

    def _with_keys(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """Join x (B, T, D) with the codes before and after each token, (B, T, D + 2 N K)."""
        shape = (x.shape[0], x.shape[1] + 1, self.heads, self.code)
        if not isinstance(keys, Tensor) or keys.shape != shape:
            got = tuple(keys.shape) if isinstance(keys, Tensor) else type(keys).__name__
            raise ValueError(f"codes of n-grams are {shape} here, but got {got}")
        codes = keys.flatten(2).to(x.dtype)
        return torch.cat([x, codes[:, :-1], codes[:, 1:]], dim=-1)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        size = self.heads * self.code
        x, *codes = x.split([self.dim, size, size], dim=-1)
        # codes are constants, although x beside them is not
        keys, queries = (widened(split_heads(code.detach(), self.heads)) for code in codes)
        values = widened(split_heads(self.value(x), self.heads))
        rates = split_heads(self.rate(self.choose_rate(x)), self.heads).squeeze(-1)
        return keys, values, queries, rates, torch.zeros_like(rates)

    def _read_tokens(self, projected: tuple[Tensor, ...], memory: State) -> tuple[Tensor, State]:
        if self.training and self.price:
            *vectors, rates, log_kept = projected
            projected = (*vectors, Priced.apply(rates, self.price), log_kept)
        y, memory = super()._read_tokens(projected, memory)
        return self.out(y.to(self.out.weight.dtype)), memory


def set_price(module: nn.Module, price: float) -> None:
    """Set what a write at rate 1 costs in training, in units of the loss, for each ``NGramMemory``
    in ``module``. Raises ``ValueError`` unless ``price`` is a finite number from 0."""
    if not isinstance(price, (int, float)) or not 0 <= price < math.inf:
        raise ValueError(f"price is a finite number from 0, but got {price!r}")
    for part in module.modules():
        if hasattr(part, "price"):
            part.price = price


class Priced(torch.autograd.Function):
    """Return ``rates`` (N, T) as they are. The backward pass adds ``price`` to their gradient, as
    if the loss contained their sum times ``price``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rates: Tensor, price: float) -> Tensor:
        return rates.view_as(rates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.price = inputs[1]

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        return slopes + ctx.price, None
