"""What a sequence memory is: a small model that learns while it reads, in the open.

State: a memory's weights, a set for each sample.  It sees: tokens.  Clock: every token or chunk.
Letters: B samples, T tokens, D width, C tokens of a chunk.
Source: Behrouz et al. 2025 (arXiv 2512.24695), section 3: an architecture is a memory of its
context flow. Its writes are inner steps and stay in the graph: the outer loss differentiates
through them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nested.levels.detach import detached
from nested.levels.forward import Params, State
from nested.memory.level import Level, count_parameters
from nested.memory.net import widened
from nested.memory.scan import joined, scanned
from nested.memory.second_backward import refuse_second_backward, watch_backward
from nested.memory.short_texts import warn_of_short_texts
from nested.memory.state import (
    check_apart,
    check_gathered,
    check_state,
    count_numbers,
    picked,
)
from nested.support.checks import check_counts

Position = int | Tensor


class SequenceMemory(nn.Module):
    """Reads tokens one after another: ``y, state = memory(x, state=None)``, x and y (B, T, D).

    Causal, and the same however a text is cut: with the state carried on, parts are one whole (but
    a token that is not finite may spoil all reads of its chunk: 0 times NaN is NaN). The state is
    all that it remembers, {"position": tokens read so far (), "memory": ...}; None starts anew.
    Nothing is kept in the module. What is remembered is float32 at least, also where weights and
    inputs are of a half precision: small writes would be rounded away. y has the dtype of x.

    A loss differentiates through all writes, back to the memory's first weights. With
    ``detach_every=n`` the graph is cut after every n-th token: what was written before is a
    constant to what comes after; values stay the same.

    A subclass writes ``begin`` and ``read``. Raises ``ValueError`` for a ``dim`` or
    ``detach_every`` under 1, for an x that is not (B, T, D), floating point, with B and T from 1,
    and for a state whose shapes and dtypes are not those of this memory and batch size: what else
    differs, as chunks and weights do, a state cannot tell.
    """

    sees = "keys and values of tokens"  # as describe(model) prints it
    _is_part = False  # of a model, which knows how long the whole text is

    def __init__(self, dim: int, *, detach_every: int | None = None) -> None:
        super().__init__()
        check_counts(dim=dim)
        if detach_every is not None:
            check_counts(detach_every=detach_every)
        self.dim, self.detach_every = dim, detach_every

    def extra_repr(self) -> str:
        kept = {n: v for n, v in vars(self).items() if n[0] != "_" and n != "training"}
        return ", ".join(
            f"{name}={value!r}"
            for name, value in kept.items()
            if isinstance(value, (int, float, str, tuple))
        )

    def begin(self, batch_size: int) -> State:
        """What is in the memory before the first token, nested tensors (B, ...), no views of
        parameters: a state outlives an optimizer's step. Raises ``NotImplementedError`` where a
        subclass lacks it."""
        raise NotImplementedError

    def read(self, x: Tensor, memory: State, position: Position) -> tuple[Tensor, State]:
        """Read x (B, T, D), the tokens after the first ``position``: y (B, T, D), and the memory
        after them. ``position`` is a tensor () in an exported program, which serves any number.
        Raises ``NotImplementedError`` where a subclass lacks it."""
        raise NotImplementedError

    def clocks(self) -> dict[str, int]:
        """Return {level: period}, the tokens between two updates of each level, from fast to slow.

        A memory of one level that moves at every token needs no method of its own.
        """
        return {type(self).__name__: 1}

    def describe(self) -> list[Level]:
        """Describe each level of ``clocks`` for ``describe(model)``.

        A memory of one level needs no method of its own.
        """
        ((name, period),) = self.clocks().items()
        numbers, parameters = count_numbers(self.begin(1)), count_parameters(self)
        return [Level(name, f"{numbers:,}", self.sees, period, parameters)]

    def init(self, batch_size: int) -> State:
        """The state before the first token: the position (), and nested tensors (B, ...). Raises
        ``ValueError`` where FSDP2 has sharded the weights: forward starts the state then."""
        memory = self.begin(batch_size)
        check_gathered(memory, type(self).__name__)
        return {"position": torch.tensor(0), "memory": memory}

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_vectors(x, self.dim)
        first, is_new = self.init(len(x)), state is None
        state = first if is_new else state
        check_state(state, first, type(self).__name__)
        position = 0 if state is first else _position(state, x.shape[1])
        memory, outputs = state["memory"], []
        for some in x.split(piece_sizes(position, x.shape[1], self.detach_every), dim=1):
            if self.detach_every:
                due = (position > 0) & (position % self.detach_every == 0)
                memory = picked(due, detached(memory), memory)
            y, memory = self.read(some, memory, position)
            position = position + some.shape[1]
            outputs.append(y)
        y = torch.cat(outputs, dim=1).to(x.dtype)
        if torch.is_grad_enabled() and not self._is_part:
            refuse_second_backward(state)
            watch_backward(y, memory)
            warn_of_short_texts(self, y, x.shape[1], is_new)
        after = position if isinstance(position, Tensor) else torch.tensor(position)
        return y, {"position": after, "memory": memory}


class ChunkedMemory(SequenceMemory):
    """A memory that takes gradients at its weights at the *start* of a chunk of C tokens, while
    writes go to its weights *now*; after the chunk's last token the one becomes the other. With
    chunks of one token that is gradient descent, token by token.

    A subclass writes ``weights``, ``project`` and ``step``. The state is {"position", "memory":
    {"start", "now"}}, weights {name: (B, ...)} each. Raises ``ValueError`` for a ``chunk`` under 1,
    and as ``SequenceMemory`` does. Source: eq. 90, after Sun et al. 2024 (arXiv 2407.04620).
    """

    def __init__(self, dim: int, chunk: int = 64, *, detach_every: int | None = None) -> None:
        super().__init__(dim, detach_every=detach_every)
        check_counts(chunk=chunk)
        self.chunk = chunk

    @property
    def sees(self) -> str:
        """The context flow, for ``describe(model)``."""
        return f"{super().sees}, errors as they were when its chunk of {self.chunk} began"

    def weights(self, batch_size: int) -> Params:
        """The weights before the first token, {name: (B, ...)}: parameters, for each sample.
        Raises ``NotImplementedError`` where a subclass lacks it."""
        raise NotImplementedError

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """What of x (B, T, D) depends on no memory, for all tokens at once: tensors (B, T, ...).
        Raises ``NotImplementedError`` where a subclass lacks it."""
        raise NotImplementedError

    def step(self, seen: tuple[Tensor, ...], start: Params, now: Params) -> tuple[Tensor, Params]:
        """Read tokens ``seen`` (B, C, ...) of one chunk, or of a part of it: y (B, C, D), and the
        weights now, {name: (B, ...)}. Raises ``NotImplementedError`` where a subclass lacks it."""
        raise NotImplementedError

    def begin(self, batch_size: int) -> State:
        weights = {name: widened(w).clone() for name, w in self.weights(batch_size).items()}
        return {"start": weights, "now": weights}

    def read(self, x: Tensor, memory: State, position: Position) -> tuple[Tensor, State]:
        start, now, outputs = memory["start"], memory["now"], []
        sizes = joined(piece_sizes(position, x.shape[1], self.chunk), self.chunk)
        parts = (widened(part).split(sizes, dim=1) for part in self.project(x))
        for seen in zip(*parts, strict=True):
            if seen[0].shape[1] > self.chunk:
                y, now = scanned(self.step, seen, now, self.chunk)
            else:
                y, now = self.step(seen, start, now)
            outputs.append(y)
            position = position + y.shape[1]
            start = picked(position % self.chunk == 0, now, start)
        return torch.cat(outputs, dim=1).to(x.dtype), {"start": start, "now": now}


def piece_sizes(position: Position, length: int, period: int | None) -> list[int]:
    """The sizes of the pieces of ``length`` tokens, the first of them after ``position`` others,
    cut after every ``period``-th token since the beginning; None cuts nothing. At a ``position``
    that is a tensor any token may be such a one: pieces are single tokens.

    >>> piece_sizes(position=6, length=9, period=4)
    [2, 4, 3]
    """
    if period is None:
        return [length]
    if isinstance(position, Tensor):
        return [1] * length
    first = min(period - position % period, length)
    rest = length - first
    return [first, *[period] * (rest // period), *[rest % period] * (rest % period > 0)]


def check_vectors(x: Tensor, dim: int) -> None:
    """Raise ``ValueError`` unless x is (B, T, D) of width D = ``dim``, floating point, B and T from
    1."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"a memory reads vectors of floating point, but got {kind}: embed tokens first"
        )
    if x.dim() != 3 or x.shape[-1] != dim or 0 in x.shape:
        allowed = f"(samples, tokens, {dim}), one or more of each"
        raise ValueError(f"a memory reads {allowed}, but got {tuple(x.shape)}")


def check_truncation(detach_every: int | None, period: int) -> None:
    """Raise ``ValueError`` if weights that move every ``period`` tokens would never have a
    gradient, because the graph is cut just where they move."""
    if detach_every and period % detach_every == 0:
        raise ValueError(
            f"detach_every={detach_every} cuts the graph wherever weights that move every {period}"
            f" tokens do: none would reach them; take a number over {period}"
        )


def _position(state: State, length: int) -> Position:
    """The number of tokens before ``state``; a graph of ``length`` tokens keeps it a tensor."""
    position = state["position"]
    if torch.compiler.is_exporting():
        check_apart(state)
        return position
    if length == 1 and torch.compiler.is_compiling():
        return position
    number = position.item() if isinstance(position, Tensor) else position
    if number != number or number < 0 or number != int(number):
        raise ValueError(f"a state's position is a whole number from 0, but got {number}")
    return int(number)
