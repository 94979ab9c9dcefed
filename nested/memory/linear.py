"""A matrix that learns while it reads: linear attention and the delta rule.

State: a matrix per sample.  It sees: keys and values of tokens.  Clock: every token.
Letters: B samples, T tokens, D width, H heads, E numbers of a value of one head, K of its keys,
C tokens of a chunk.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 9, 12-16 and 57. Products of a (I - n k k^T) by
chunks: Yang et al. 2024 (arXiv 2406.06484); with forgetting: Yang et al. 2024 (arXiv 2412.06464).
Rates up to 2: Grazzi et al. 2025 (arXiv 2411.12537); several products a token: Siems et al. 2025
(arXiv 2502.10297).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nested.levels.forward import Params, State
from nested.memory.gates import Gate, HardGate
from nested.memory.heads import check_heads, join_heads, split_heads, split_rows
from nested.memory.masks import Position, piece_sizes
from nested.memory.net import solve_lower, unit, widened, zero_projection
from nested.memory.scan import joined, scanned
from nested.memory.sequence import SequenceMemory
from nested.support.checks import check_counts

OBJECTIVES = ("l2", "dot")


class MatrixMemory(SequenceMemory):
    """A matrix M for each of ``heads``, written token by token: ``by_tokens`` defines how, and
    ``by_chunks`` does it ``chunk`` tokens at a time.

    A subclass writes ``begin``, whose memory is {"matrix": (B, H E, K)}, and ``project``. A token
    makes ``products`` writes and reads after the last one. Raises ``ValueError`` for another
    ``objective``, for ``heads``, ``chunk`` or ``products`` under 1, and as ``SequenceMemory`` does.
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
        detach_every: int | None = None,
    ) -> None:
        super().__init__(dim, detach_every=detach_every)
        check_counts(chunk=chunk, products=products, heads=heads)
        check_objective(objective)
        self.objective, self.chunk, self.heads, self.products = objective, chunk, heads, products

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute keys (N, S, K), values (N, S, E), queries (N, S, K), rates and log retentions
        (N, S) of x, as ``read`` takes it. N = B H and S = T P: the P writes of a token follow each
        other. Raises ``NotImplementedError`` unless a subclass writes it."""
        raise NotImplementedError

    def read(self, x: Tensor, memory: State, position: Position) -> tuple[Tensor, State]:
        return self._read_tokens(self.project(x), memory)

    def read_masked(
        self, x: Tensor, memory: State, position: Tensor, write: Tensor
    ) -> tuple[Tensor, State]:
        *vectors, rates, log_kept = self.project(x)
        write = write.repeat_interleave(self.heads, 0).repeat_interleave(self.products, 1)
        gates = (gate.masked_fill(~write, 0) for gate in (rates, log_kept))  # M <- 1 M + 0
        return self._read_tokens((*vectors, *gates), memory)

    def _read_tokens(self, projected: tuple[Tensor, ...], memory: State) -> tuple[Tensor, State]:
        matrix = split_rows(memory["matrix"], self.heads)  # (N, E, K)
        chunk = self.chunk * self.products
        y, matrix = by_chunks(*projected, matrix, self.objective, chunk)
        y = join_heads(y[:, self.products - 1 :: self.products], self.heads)
        return y, {"matrix": matrix.reshape(memory["matrix"].shape)}


class LinearMemory(MatrixMemory):
    """A D x D matrix M per sample that learns, while it reads, to map keys k to values v:

        M <- a M - n (a M k - v) k^T    "l2": the delta rule, a gradient step on |M k - v|^2 / 2
        M <- a M + n v k^T              "dot": linear attention, a gradient step on -<M k, v>
        y = M q

    for each token x, with q = unit(W_q x), k = unit(W_k x) and v = W_v x. Gates of x choose the
    rate n in [0, 2] and the retention a = 1 - forgetting, with forgetting in (1e-6, 0.5). Rates
    over 1 give (I - n k k^T) a negative eigenvalue, so that a state can flip: the memory can then
    count to two (Grazzi et al. 2025).

    With "l2" the first M is a parameter, which starts at zero. A write at rate 2 and value 0 turns
    the state M k into -M k. A state of zero would not change. So training learns a first M that is
    not zero at such a key. With "dot" the first M is zero: a sum counts from there.

    ``heads`` = H splits the width: H matrices of D / H, each with keys, values and gates of its
    own. With ``products`` = P a token makes P writes, each with its own key, value and rate, and
    reads after the last one. A product of two reflections is a rotation, which the word problem of
    S3 needs (Siems et al. 2025). ``chunk`` is the number of tokens read at once; it changes the
    speed and not the result. The state is {"position", "memory": {"matrix": (B, D, D / H)}}, the
    matrices one above the other. Raises ``ValueError`` for another objective, for a ``chunk`` or
    ``products`` under 1, unless D is a multiple of ``heads``, and as ``SequenceMemory`` does.
    """

    def __init__(
        self,
        dim: int,
        objective: str = "l2",
        chunk: int = 64,
        *,
        heads: int = 1,
        products: int = 1,
        detach_every: int | None = None,
    ) -> None:
        more = {"heads": heads, "products": products, "detach_every": detach_every}
        super().__init__(dim, objective, chunk, **more)
        check_heads(dim, heads)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key, self.value = (nn.Linear(dim, products * dim, bias=False) for _ in range(2))
        writes = heads * products
        # two maps, because weight decay should act on forgetting and not on rates
        self.choose_rate = zero_projection(dim, writes)
        self.choose_decay = zero_projection(dim, heads)
        self.rate, self.forgetting = HardGate(1.0, 2.0, writes), Gate(1e-6, 1e-4, 0.5, heads)
        if objective == "l2":
            self.matrix = nn.Parameter(torch.zeros(dim, dim // heads))

    def begin(self, batch_size: int) -> State:
        if self.objective == "l2":
            return {"matrix": widened(self.matrix).expand(batch_size, -1, -1).clone()}
        shape = (batch_size, self.dim, self.dim // self.heads)
        return {"matrix": widened(self.value.weight.new_zeros(shape))}

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        x, before = self.tokens_and_keys(x)
        keys, values = (self._by_write(part) for part in (self.key(before), self.value(x)))
        queries = split_heads(self.query(x), self.heads)
        rates = self._by_write(self.rate(self.choose_rate(x))).squeeze(-1)
        log_kept = self.forgetting.log_rest(self.choose_decay(x))
        log_kept = split_heads(log_kept, self.heads)  # (B H, T, 1)
        # a token forgets once, before its first write; only the read after its last one counts
        log_kept = pad(log_kept, (0, self.products - 1)).flatten(1)
        queries = queries.repeat_interleave(self.products, 1) if self.products > 1 else queries
        return unit(keys), widened(values), unit(queries), rates, log_kept

    def _by_write(self, x: Tensor) -> Tensor:
        """Split x (B, T, P H E) into the writes of each head: (B H, T P, E)."""
        return split_heads(x.unflatten(-1, (self.products, -1)).flatten(1, 2), self.heads)


def check_objective(objective: str) -> None:
    """Raise ``ValueError`` unless ``objective`` is "l2" or "dot"."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is one of {OBJECTIVES}, but got {objective!r}")


def check_tokens(
    keys: Tensor, values: Tensor, queries: Tensor, rates: Tensor, log_kept: Tensor, matrix: Tensor
) -> None:
    """Raise ``ValueError`` unless tensors (...) have the shapes that ``by_tokens`` takes, with B
    and T from 1."""
    if torch.jit.is_tracing():  # sizes are tensors then
        return
    tokens, size, key_size = keys.shape[:2], values.shape[-1], keys.shape[-1]
    if keys.dim() != 3 or 0 in tokens:
        raise ValueError(f"keys are (B, T, K), with B and T from 1, but got {tuple(keys.shape)}")
    fitting = {
        "values": (values, (*tokens, size)),
        "queries": (queries, keys.shape),
        "rates": (rates, tokens),
        "retentions": (log_kept, tokens),
        "first matrices": (matrix, (tokens[0], size, key_size)),
    }
    for name, (tensor, shape) in fitting.items():
        if tensor.shape != shape:
            raise ValueError(
                f"{name} are {tuple(shape)} for keys {tuple(keys.shape)} and values"
                f" {tuple(values.shape)}, but got {tuple(tensor.shape)}"
            )


def by_tokens(
    keys: Tensor,
    values: Tensor,
    queries: Tensor,
    rates: Tensor,
    log_kept: Tensor,
    matrix: Tensor,
    objective: str = "l2",
) -> tuple[Tensor, Tensor]:
    """Read token by token: the definition that ``by_chunks`` is tested against.

    Takes keys (B, T, K), values (B, T, E), queries (B, T, K), rates and log retentions (B, T), and
    the matrix before them (B, E, K). Returns the reads (B, T, E) and the matrix after them. Raises
    ``ValueError`` for another objective, no tokens, or tensors of other shapes.
    """
    check_objective(objective)
    check_tokens(keys, values, queries, rates, log_kept, matrix)
    reads = []
    for t in range(keys.shape[1]):
        k, v, q = (x[:, t, :, None] for x in (keys, values, queries))  # (B, D, 1)
        n, a = rates[:, t, None, None], log_kept[:, t, None, None].exp()
        matrix = a * matrix
        error = v - matrix @ k if objective == "l2" else v
        matrix = matrix + n * error @ k.mT  # M <- a M (I - n k k^T) + n v k^T   (eq. 9, 57)
        reads.append(matrix @ q)  # y = M q
    return torch.stack(reads, dim=1).squeeze(-1), matrix


def by_chunks(
    keys: Tensor,
    values: Tensor,
    queries: Tensor,
    rates: Tensor,
    log_kept: Tensor,
    matrix: Tensor,
    objective: str = "l2",
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Read ``chunk`` tokens at a time, with the result of ``by_tokens``.

    Takes keys (B, T, K), values (B, T, E), queries (B, T, K), rates and log retentions (B, T), and
    the matrix before them (B, E, K). Returns the reads (B, T, E) and the matrix after them. A log
    retention of -inf forgets everything before its token, as a new document needs. In a chunk that
    starts at M, with b_t = a_1 ... a_t,

        M_t = b_t M + sum_(s <= t) (b_t / b_s) u_s k_s^T,
        u_t = n_t (v_t - b_t M k_t - sum_(s < t) (b_t / b_s) (k_s . k_t) u_s):

    The u of a chunk solve one triangular system, (I + L) U = n (V - b K M^T). Raises ``ValueError``
    for another objective, a ``chunk`` under 1, no tokens, or tensors of other shapes.
    """
    check_objective(objective)
    check_counts(chunk=chunk)
    check_tokens(keys, values, queries, rates, log_kept, matrix)
    if keys.shape[1] == 1:  # a text as it is written: a chunk of one token is the definition
        return by_tokens(keys, values, queries, rates, log_kept, matrix, objective)

    def step(tokens: tuple[Tensor, ...], start: Params, now: Params) -> tuple[Tensor, Params]:
        (k, v, q, n, log_a), matrix = tokens, now["matrix"]  # (B, C, ...), (B, C), (B, E, K)
        n, (b, decay) = n[..., None], decays(log_a)
        u = n * v
        if objective == "l2":
            u = torch.baddbmm(u, -n * b * k, matrix.mT)
            u = solve_lower(n * decay * (k @ k.mT), u)
        read = torch.baddbmm((decay * (q @ k.mT)) @ u, b * q, matrix.mT)  # y_t = M_t q_t
        return read, {"matrix": b[:, -1:] * matrix + u.mT @ (decay[:, -1, :, None] * k)}

    sizes = joined(piece_sizes(0, keys.shape[1], chunk), chunk)
    parts = (x.split(sizes, dim=1) for x in (keys, values, queries, rates, log_kept))
    reads, now = [], {"matrix": matrix}
    for tokens in zip(*parts, strict=True):
        is_many = tokens[0].shape[1] > chunk
        read, now = scanned(step, tokens, now, chunk) if is_many else step(tokens, now, now)
        reads.append(read)
    return torch.cat(reads, dim=1), now["matrix"]


def decays(log_kept: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply up the retentions a_t of a chunk, given their logarithms (..., C).

    Returns b_t = a_1 ... a_t, (..., C, 1), and a matrix (..., C, C) with b_t / b_s in row t, column
    s <= t, and 0 elsewhere. Each ratio sums its logarithms anew, because a difference of two sums
    is NaN once a retention is 0.
    """
    count = log_kept.shape[-1]
    log_a = log_kept[..., :, None].expand(*log_kept.shape, count)  # log a_t in row t
    log_ratio = log_a.tril(-1).cumsum(-2)  # log a_(s+1) + ... + log a_t
    return log_kept.cumsum(-1).exp()[..., None], log_ratio.exp().tril()
