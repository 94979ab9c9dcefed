"""Continuum memory: a chain of small nets that learn while they read, each at its clock.

State: the weights of each level, per sample.  It sees: the level before it.  Clock: 16, 64 and 256
tokens, or other periods. Between two moves a level still reads; only its update waits.
Letters: B samples, T tokens, D width, C tokens between a level's updates, L levels.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 70-74.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nested.levels.clock import Clock
from nested.levels.forward import Params, State
from nested.memory.gates import Gate
from nested.memory.level import Level, count_parameters
from nested.memory.masks import Position, later, piece_sizes
from nested.memory.net import (
    damping,
    plus_product,
    random_matrix,
    silu_and_slope,
    squared,
    unit,
    widened,
)
from nested.memory.scan import joined, scanned
from nested.memory.sequence import ChunkedMemory, SequenceMemory, check_truncation
from nested.memory.state import check_gathered, picked

FORMS = ("sequential", "independent", "nested")


class ContinuumLevel(ChunkedMemory):
    """One level: a net that reads y = W1 silu(W2 W_q x) and learns to map keys to values:

        W <- W - n sum_C c dL/dW,   L = 1/2 |W1 silu(W2 k) - v|^2,   k, v = unit(W_k x), unit(W_v x)

    every C = ``chunk`` tokens. The sum runs over the errors of the chunk, all at its first weights
    (eq. 71), each with its ``damping`` c. Values are normalised to length 1. Without that, a level
    that feeds another can amplify without bound. In a test of width 64 with rates at their top,
    activations reached 1e32 within 2,048 equal tokens (one seed of two).

    Parameters are the rate n in (1e-4, 1) / C and the first weights ``w1``, ``w2`` (D, D). The
    state is {"position", "memory": {"start", "now"}}, each {"w1", "w2": (B, D, D)}. Raises as
    ``SequenceMemory`` does.
    """

    def __init__(self, dim: int, chunk: int) -> None:
        super().__init__(dim, chunk)
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.rate = Gate(1e-4 / chunk, 0.1 / chunk, 1 / chunk)
        self.w1, self.w2 = random_matrix(dim, dim), random_matrix(dim, dim)

    def weights(self, batch_size: int) -> Params:
        shape = (batch_size, self.dim, self.dim)
        return {"w1": self.w1.expand(shape), "w2": self.w2.expand(shape)}

    def clocks(self) -> dict[str, int]:
        return {type(self).__name__: self.chunk}

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        rates = self.rate(0.0).expand(*x.shape[:-1], 1)
        return self.query(x), unit(self.key(x)), unit(self.value(x)), rates

    def step(
        self,
        projected: tuple[Tensor, ...],
        start: Params,
        now: Params,
        write: Tensor | None = None,
    ) -> tuple[Tensor, Params]:
        queries, keys, values, rates = projected
        rates = rates if write is None else rates.masked_fill(~write[..., None], 0)
        w1, w2 = start["w1"], start["w2"]
        y = silu(queries @ w2.mT) @ w1.mT
        units, slopes = silu_and_slope(keys @ w2.mT)
        error = units @ w1.mT - values  # dL/dM(k)
        back = (error @ w1) * slopes  # dL/d(W2 k)
        steps = -rates * damping(squared(units), squared(error), squared(back))
        return y, {  # W - n sum c dL/dW
            "w1": plus_product(now["w1"], (steps * error).mT, units),
            "w2": plus_product(now["w2"], (steps * back).mT, keys),
        }


class ContinuumMemory(SequenceMemory):
    """A chain of levels with rising ``periods``, in tokens: the context flows from fast to slow.

    The ``form`` says how the levels h_1, h_2, ... are connected:

    - "sequential": h_0 = x, h_l = h_(l-1) + level_l(h_(l-1)), y = h_L (eq. 70).
    - "independent": every level reads x; y = x + a mean of their reads, weighted by gates
      softmax(W x) (eq. 74).
    - "nested": as sequential, and a level restarts whenever its slower neighbour moves. Its new
      weights are A W + O, with the neighbour's weights W (eq. 72). The maps A start at the
      identity and the offsets O = ``w1``, ``w2`` at 0; both are learned. Each period is a multiple
      of the one before.

    The state is {"position", "memory": ({"start", "now"}, ...)}, one entry per level. Raises
    ``ValueError`` for another form, and for periods that are not rising whole numbers from 1.
    Raises it too for a ``detach_every`` that divides a period, because that level would have no
    gradient, and as ``SequenceMemory`` does.
    """

    def __init__(
        self,
        dim: int,
        periods: tuple[int, ...] = (16, 64, 256),
        form: str = "sequential",
        *,
        detach_every: int | None = None,
    ) -> None:
        super().__init__(dim, detach_every=detach_every)
        check_periods(periods, form)
        for period in periods:
            check_truncation(detach_every, period)
        self.periods, self.form = tuple(periods), form
        self.levels = nn.ModuleList(ContinuumLevel(dim, period) for period in periods)
        if form == "independent":
            self.choose = nn.Linear(dim, len(periods), bias=False)
            nn.init.zeros_(self.choose.weight)
        if form == "nested":
            self.mixes = nn.ParameterList(torch.eye(dim).repeat(2, 1, 1) for _ in periods[1:])
            for level in self.levels[:-1]:  # at first a copy of the slower level
                nn.init.zeros_(level.w1)
                nn.init.zeros_(level.w2)

    def clocks(self) -> dict[str, int]:
        return {f"level {i}": period for i, period in enumerate(self.periods, start=1)}

    def describe(self) -> list[Level]:
        rows = []
        for name, level in zip(self.clocks(), self.levels, strict=True):
            is_first = not rows or self.form == "independent"
            flow = "its input" if is_first else f"{rows[-1].name}'s flow"
            (row,) = level.describe()
            rows.append(row._replace(name=name, sees=f"keys and values of {flow}"))
        between = count_parameters(self) - sum(row.parameters for row in rows)
        if between:  # gates of the independent form, or maps of the nested form
            rows.append(Level("between", "0", "tokens", 1, between))
        return rows

    def begin(self, batch_size: int) -> State:
        levels = [level.begin(batch_size) for level in self.levels]
        check_gathered(levels, type(self).__name__)
        return self._restarted(levels, 0) if self.form == "nested" else tuple(levels)

    def read(self, x: Tensor, memory: State, position: Position) -> tuple[Tensor, State]:
        return self._read_levels(x, memory, position)

    def read_masked(
        self, x: Tensor, memory: State, position: Tensor, write: Tensor
    ) -> tuple[Tensor, State]:
        return self._read_levels(x, memory, position, write)

    def _read_levels(
        self, x: Tensor, memory: State, position: Position, write: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if self.form == "nested":
            return self._read_nested(x, memory, position, write)
        flow, outputs, after = x, [], []
        for level, before in zip(self.levels, memory, strict=True):
            y, state = level._read_chunks(flow, before, position, write)
            after.append(state)
            if self.form == "sequential":
                flow = flow + y
            else:
                outputs.append(y)
        if self.form == "independent":
            shares = torch.softmax(self.choose(x), dim=-1)[..., None, :]  # (B, T, 1, L)
            flow = x + (torch.stack(outputs, dim=-1) * shares).sum(-1)
        return flow, tuple(after)

    def _read_nested(
        self, x: Tensor, memory: State, position: Position, write: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read as sequential, in pieces that end where any level but the fastest moves."""
        if write is None:
            sizes = joined(piece_sizes(position, x.shape[1], self.periods[-1]), self.periods[-1])
            if max(sizes) > self.periods[-1]:
                return self._read_many(x.split(sizes, dim=1), memory, position)
        period = self.periods[1] if len(self.periods) > 1 else None
        sizes = piece_sizes(position, x.shape[1], period, write)
        masks = [None] * len(sizes) if write is None else write.split(sizes, dim=1)
        outputs = []
        for flow, mask in zip(x.split(sizes, dim=1), masks, strict=True):
            after = []
            for level, before in zip(self.levels, memory, strict=True):
                y, state = level._read_chunks(flow, before, position, mask)
                flow = flow + y
                after.append(state)
            position = later(position, flow.shape[1], mask)
            memory = self._restarted(after, position)
            outputs.append(flow)
        return torch.cat(outputs, dim=1), memory

    def _read_many(
        self, parts: tuple[Tensor, ...], memory: State, position: Position
    ) -> tuple[Tensor, State]:
        """Read ``parts``, one of which is many whole periods of the slowest level.

        At the end of such a period "start" and "now" are equal in every level. So the weights now
        are the whole memory, and ``scanned`` carries them from period to period.
        """
        names = [(i, name) for i, level in enumerate(memory) for name in level["now"]]

        def step(tokens: tuple[Tensor, ...], start: Params, now: Params) -> tuple[Tensor, Params]:
            y, after = self._read_nested(*tokens, unfolded(now), 0)
            return y, folded(after)

        def folded(memory: State) -> Params:
            return {(i, name): memory[i]["now"][name] for i, name in names}

        def unfolded(now: Params) -> State:
            levels = [{n: now[i, n] for j, n in names if j == i} for i in range(len(memory))]
            return tuple({"start": weights, "now": weights} for weights in levels)

        outputs = []
        for part in parts:
            if part.shape[1] > self.periods[-1]:
                y, now = scanned(step, (part,), folded(memory), self.periods[-1])
                memory = unfolded(now)
            else:
                y, memory = self._read_nested(part, memory, position)
            position = position + part.shape[1]
            outputs.append(y)
        return torch.cat(outputs, dim=1), memory

    def _restarted(self, memory: list[State], position: Position) -> State:
        """Restart each level whose slower neighbour moves after ``position`` tokens."""
        for i in reversed(range(len(self.mixes))):
            due = position % self.periods[i + 1] == 0
            if isinstance(due, Tensor) or due:
                weights = restarted(memory[i + 1]["now"], self.mixes[i], self.levels[i])
                memory[i] = picked(due, {"start": weights, "now": weights}, memory[i])
        return tuple(memory)


def restarted(slower: Params, mixes: Tensor, level: ContinuumLevel) -> Params:
    """Map the weights (B, D, D) of the ``slower`` level to new weights of ``level``: A W + O.

    ``mixes`` (2, D, D) holds the A of w1 and of w2. Autocast is disabled: weights are memory.
    """
    a, w1, w2 = widened(mixes), slower["w1"], slower["w2"]
    with torch.autocast(w1.device.type, enabled=False):
        return {"w1": a[0] @ w1 + level.w1, "w2": a[1] @ w2 + level.w2}  # eq. 72


def check_periods(periods: tuple[int, ...], form: str) -> None:
    """Raise ``ValueError`` unless ``form`` is known and ``periods`` are rising whole numbers.

    They start from 1. In the nested form each must be a multiple of the one before.
    """
    if form not in FORMS:
        raise ValueError(f"form is one of {FORMS}, but got {form!r}")
    if not isinstance(periods, (tuple, list)) or not periods:
        raise ValueError(f"periods are one or more numbers of tokens, but got {periods!r}")
    for period in periods:
        Clock(period)
    if any(fast >= slow for fast, slow in pairwise(periods)):
        raise ValueError(f"periods rise from fast to slow, but got {periods}")
    if form == "nested" and any(slow % fast for fast, slow in pairwise(periods)):
        raise ValueError(f"nested periods are each a multiple of the one before, but got {periods}")
