"""The base of all sequence memories: small models that learn while they read.

State: the weights of a memory, one set per sample.  It sees: tokens.  Clock: every token or chunk.
Letters: B samples, T tokens, D width, C tokens of a chunk.
Source: Behrouz et al. 2025 (arXiv 2512.24695), section 3: an architecture is a memory of its
context flow. The writes of a memory are inner steps that stay in the graph, so the outer loss is
differentiated through them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nested.levels.detach import detached
from nested.levels.forward import Params, State
from nested.memory.level import Level, count_parameters
from nested.memory.masks import (
    Lengths,
    Position,
    is_traced,
    later,
    piece_sizes,
    present_tokens,
    without_padding,
    written_tokens,
)
from nested.memory.net import widened
from nested.memory.scan import joined, scanned
from nested.memory.second_backward import refuse_second_backward, watch_backward
from nested.memory.short_texts import warn_of_short_texts
from nested.memory.state import (
    check_apart,
    check_gathered,
    check_state,
    count_numbers,
    pick,
    picked,
    stack_states,
)
from nested.support.checks import check_counts


class SequenceMemory(nn.Module):
    """Reads tokens one after another: ``y, state = memory(x, state=None)``, x and y (B, T, D).

    Causal. Splitting the input into pieces and carrying the state gives exactly the result of one
    call. (Exception: a NaN token can spoil its whole chunk.) The state is everything the memory
    remembers, {"position": tokens written so far (B,), "memory": ...}; None starts anew. The module
    itself stores nothing while it reads. A memory keeps float32 at least, even for weights and
    inputs of half precision, which would round small writes away. y has the dtype of x.

    With ``keys`` (B, T, D) a memory that has keys makes them from these vectors, and all else from
    x. A memory without keys ignores them.

    With ``lengths`` (B,) only the first ``lengths[b]`` tokens of sample b are there. What follows
    is padding: it leaves no trace in the state, and its y is 0. With a mask ``write`` (B, T) the
    memory writes the marked tokens only. It reads the others too, but its state stays as if they
    were not in the text, and so does its clock.

    A loss differentiates through all writes, back to the first weights of the memory. With
    ``detach_every=n`` the graph is truncated after every n-th token: earlier writes then count as
    constants. Values stay the same.

    A subclass writes ``begin`` and ``read``; one with several levels, or a slow one, also
    ``clocks`` and ``describe``.

    Raises ``ValueError`` for a ``dim`` or ``detach_every`` under 1, and for an x that is empty, not
    (B, T, D) or not floating point. Refuses a state with other shapes or dtypes, and cannot tell
    one of other chunks or weights. Refuses ``keys`` of another shape or dtype than x, ``lengths``
    outside 0 to T, and a ``write`` that is no mask (B, T).
    """

    sees = "keys and values of tokens"  # as describe(model) prints it
    has_keys = False  # True where ``read`` splits x by ``tokens_and_keys``
    _is_part = False  # True inside a model, which knows the length of the whole text

    def __init__(self, dim: int, *, detach_every: int | None = None) -> None:
        super().__init__()
        check_counts(dim=dim)
        if detach_every is not None:
            check_counts(detach_every=detach_every)
        self.dim, self.detach_every = dim, detach_every

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "read" in vars(cls) and "read_masked" not in vars(cls):
            cls.read_masked = SequenceMemory.read_masked  # an inherited one belongs to another read

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if name[0] != "_" and name != "training" and isinstance(value, (int, float, str, tuple))
        )

    def begin(self, batch_size: int) -> State:
        """Make the memory as it is before the first token, nested tensors (B, ...).

        No tensor may be a view of a parameter, because a state outlives an optimizer's step. Raises
        ``NotImplementedError`` unless a subclass writes it.
        """
        raise NotImplementedError

    def read(self, x: Tensor, memory: State, position: Position) -> tuple[Tensor, State]:
        """Read x (B, T, D), the tokens that follow the first ``position`` tokens.

        If the class ``has_keys``, x can be (B, T, 2 D), for ``tokens_and_keys`` to split. Returns
        y (B, T, D) and the memory after them. In an exported program ``position`` is a tensor (B,),
        because one program serves every position. Raises ``NotImplementedError`` unless a subclass
        writes it.
        """
        raise NotImplementedError

    def read_masked(
        self, x: Tensor, memory: State, position: Tensor, write: Tensor
    ) -> tuple[Tensor, State]:
        """Read x (B, T, D) as ``read`` does, but write only the tokens that ``write`` (B, T) marks.

        Sample b has written ``position[b]`` tokens before. This is the definition: one sample after
        the other, and a token at a time. A subclass can write a faster form.
        """
        reads, memories = [], []
        for b, at in enumerate(position.tolist()):
            own = pick(memory, [b])
            for t, is_written in enumerate(write[b].tolist()):
                y, after = self.read(x[b : b + 1, t : t + 1], own, at)
                own, at = (after, at + 1) if is_written else (own, at)
                reads.append(y)
            memories.append(own)
        return torch.cat(reads, dim=1).reshape(*x.shape[:2], self.dim), stack_states(memories)

    def tokens_and_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split x, as ``read`` takes it, into tokens and what their keys are made from, (B, T, D)
        each."""
        return (x, x) if x.shape[-1] == self.dim else x.split(self.dim, dim=-1)

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
        """Make the state before the first token: positions (B,) and nested tensors (B, ...).

        Raises ``ValueError`` if FSDP2 has sharded the weights; then let forward start the state.
        """
        memory = self.begin(batch_size)
        check_gathered(memory, type(self).__name__)
        return {"position": torch.zeros(batch_size, dtype=torch.int64), "memory": memory}

    def _with_keys(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """Join x and ``keys`` (B, T, D) to (B, T, 2 D), for ``read`` of a memory that has keys.
        Raises ``ValueError`` unless both have one shape and one dtype."""
        if keys is None:
            return x
        if not isinstance(keys, Tensor) or (keys.shape, keys.dtype) != (x.shape, x.dtype):
            is_tensor = isinstance(keys, Tensor)
            got = f"{tuple(keys.shape)}, {keys.dtype}" if is_tensor else type(keys).__name__
            raise ValueError(
                f"keys have the shape and dtype of the tokens, {tuple(x.shape)}, {x.dtype}, but got"
                f" {got}"
            )
        return torch.cat([x, keys], dim=-1) if self.has_keys else x

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        keys: Tensor | None = None,
        lengths: Lengths | None = None,
        write: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        check_vectors(x, self.dim)
        x, present = self._with_keys(x, keys), present_tokens(x, lengths)
        write, x = written_tokens(x, present, write), without_padding(x, present)
        first, is_new = self.init(len(x)), state is None
        state = first if is_new else state
        position = 0 if is_new else _position(state, first, type(self).__name__, x.shape[1])
        if isinstance(position, Tensor) and write is None and not is_traced():
            write = x.new_ones(x.shape[:2], dtype=torch.bool)
        if isinstance(position, int) and write is not None:
            position = torch.full((len(x),), position)
        memory, outputs, at = state["memory"], [], 0
        for size in piece_sizes(position, x.shape[1], self.detach_every, write):
            if self.detach_every:
                due = (position > 0) & (position % self.detach_every == 0)
                memory = picked(due, detached(memory), memory)
            mask = None if write is None else write[:, at : at + size]
            piece = x[:, at : at + size]
            if mask is None:
                y, memory = self.read(piece, memory, position)
            else:
                y, memory = self.read_masked(piece, memory, position, mask)
            position, at = later(position, size, mask), at + size
            outputs.append(y)
        y = without_padding(torch.cat(outputs, dim=1).to(x.dtype), present)
        if torch.is_grad_enabled() and not self._is_part:
            refuse_second_backward(state)
            watch_backward(y, memory)
            warn_of_short_texts(self, y, x.shape[1], is_new)
        if not isinstance(position, Tensor):
            position = torch.full((len(x),), position)
        return y, {"position": position, "memory": memory}


class ChunkedMemory(SequenceMemory):
    """A memory that learns by chunks of C tokens. All gradients of a chunk are taken at its *start*
    weights, and all writes go to the weights *now*.

    After the last token of a chunk, "now" becomes the next "start". With chunks of one token this
    is gradient descent, token by token. A subclass writes ``weights``, ``project`` and ``step``.
    The state is {"position", "memory": {"start", "now"}}, each {name: (B, ...)}. Raises
    ``ValueError`` for a ``chunk`` under 1, and as ``SequenceMemory`` does.
    Source: eq. 90, after Sun et al. 2024 (arXiv 2407.04620).
    """

    def __init__(self, dim: int, chunk: int = 64, *, detach_every: int | None = None) -> None:
        super().__init__(dim, detach_every=detach_every)
        check_counts(chunk=chunk)
        self.chunk = chunk

    @property
    def sees(self) -> str:
        """The context flow, as ``describe(model)`` prints it."""
        return f"{super().sees}, errors as they were when its chunk of {self.chunk} began"

    def weights(self, batch_size: int) -> Params:
        """Return the weights before the first token, {name: (B, ...)}: parameters, expanded to one
        set per sample. Raises ``NotImplementedError`` unless a subclass writes it."""
        raise NotImplementedError

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute everything that depends on x (B, T, D) alone and not on the memory, for all
        tokens at once: tensors (B, T, ...). Raises ``NotImplementedError`` unless a subclass writes
        it."""
        raise NotImplementedError

    def step(
        self,
        projected: tuple[Tensor, ...],
        start: Params,
        now: Params,
        write: Tensor | None = None,
    ) -> tuple[Tensor, Params]:
        """Read one chunk or a part of it, the tensors ``projected`` (B, C, ...) of its tokens.

        A mask ``write`` (B, C) marks the tokens to write; None writes all. Returns y (B, C, D) and
        the weights now, {name: (B, ...)}. Raises ``NotImplementedError`` unless a subclass writes
        it.
        """
        raise NotImplementedError

    def begin(self, batch_size: int) -> State:
        weights = {name: widened(w).clone() for name, w in self.weights(batch_size).items()}
        return {"start": weights, "now": weights}

    def read(self, x: Tensor, memory: State, position: Position) -> tuple[Tensor, State]:
        return self._read_chunks(x, memory, position)

    def read_masked(
        self, x: Tensor, memory: State, position: Tensor, write: Tensor
    ) -> tuple[Tensor, State]:
        return self._read_chunks(x, memory, position, write)

    def _read_chunks(
        self, x: Tensor, memory: State, position: Position, write: Tensor | None = None
    ) -> tuple[Tensor, State]:
        start, now, outputs = memory["start"], memory["now"], []
        sizes = piece_sizes(position, x.shape[1], self.chunk, write)
        sizes = joined(sizes, self.chunk) if write is None else sizes
        parts = (widened(part).split(sizes, dim=1) for part in self.project(x))
        masks = [None] * len(sizes) if write is None else write.split(sizes, dim=1)
        for size, mask, *projected in zip(sizes, masks, *parts, strict=True):
            if size > self.chunk and write is None:
                y, now = scanned(self.step, projected, now, self.chunk)
            else:
                y, now = self.step(tuple(projected), start, now, mask)
            outputs.append(y)
            position = later(position, size, mask)
            start = picked(position % self.chunk == 0, now, start)
        return torch.cat(outputs, dim=1).to(x.dtype), {"start": start, "now": now}


def check_vectors(x: Tensor, dim: int) -> None:
    """Raise ``ValueError`` unless x (B, T, D) is floating point, has D = ``dim``, and is not
    empty."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"a memory reads vectors of floating point, but got {kind}: embed tokens first"
        )
    if x.dim() != 3 or x.shape[-1] != dim or 0 in x.shape:
        allowed = f"(samples, tokens, {dim}), one or more of each"
        raise ValueError(f"a memory reads {allowed}, but got {tuple(x.shape)}")


def check_truncation(detach_every: int | None, period: int) -> None:
    """Raise ``ValueError`` if truncation cuts the graph at every ``period``-th token: weights that
    move there would never have a gradient."""
    if detach_every and period % detach_every == 0:
        raise ValueError(
            f"detach_every={detach_every} cuts the graph wherever weights that move every {period}"
            f" tokens move, so they would get no gradient; take a number over {period}"
        )


def _position(state: State, like: State, owner: str, length: int) -> Position:
    """Check a ``state``, and return how many tokens it has written before: one number if all
    samples agree, else (B,).

    Exported and traced programs keep a tensor, and so does a compiled graph for a ``length`` of one
    token. A compiled graph for more tokens needs one whole number in place of the tensor.
    """
    is_number = isinstance(state, dict) and isinstance(state.get("position"), int)
    check_state({**state, "position": like["position"]} if is_number else state, like, owner)
    position = state["position"]
    if is_number:
        numbers = [position]
    elif torch.compiler.is_exporting():
        check_apart(state)
        return position
    elif torch.jit.is_tracing() or length == 1 and torch.compiler.is_compiling():
        return position
    else:
        numbers = position.tolist()
    if min(numbers) < 0:
        raise ValueError(f"a state's positions are whole numbers from 0, but got {numbers}")
    return numbers[0] if min(numbers) == max(numbers) else position
