"""The same K steps, kept in the memory of about sqrt(2 K): forget the steps, make them again.

The forward pass keeps only some states. The backward pass goes segment by segment from the last: it
makes the steps between two states once more, with their graph. Segments get shorter towards the
end, by one step each. When the long first one is unrolled again, no other state is kept any more.
So memory is sqrt(2 K) steps, where K / s segments of s steps need 2 sqrt(K). Source: Griewank 1992
(checkpointing); Shaban et al. 2019 (arXiv 1810.10667) for hypergradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.lend import call_with, version
from nested.levels.rule import UpdateRule
from nested.support.autograd import with_autograd
from nested.unroll.eager import unroll_eager
from nested.unroll.trajectory import Trajectory, join


def unroll_checkpointed(
    loss_fn: LossFn,
    params: Params,
    batches: Sequence[Batch],
    rule: UpdateRule,
    state: State,
    *,
    differentiable: bool = True,
    first_order: bool = False,
    time_dim: int = 0,
) -> Trajectory:
    """As ``unroll_eager``, but the graph of the steps is made anew in the backward pass.

    Differentiable once, with respect to the rule's parameters, the initial weights and state. Other
    tensors would get no gradient, so a batch, loss or rule that depends on some raises
    ``ValueError``. Until the backward pass the model must stay in its mode. A batch that was
    changed in place raises ``RuntimeError`` there. Returns
    losses (K,), or (T, K) with ``time_dim=1``.
    """
    options = {"first_order": first_order, "time_dim": time_dim}
    if not differentiable:
        return unroll_eager(loss_fn, params, batches, rule, state, differentiable=False, **options)
    learned = [p for p in rule.parameters() if p.requires_grad]
    leaves, spec = tree_flatten((params, state))
    precision = _precision(leaves)
    replay = _Replay(loss_fn, _segments(batches), rule, learned, spec, options, precision)
    _refuse_other_sources(replay, leaves, batches[0])
    out = _Checkpointed.apply(replay, *learned, *leaves)
    return tree_unflatten(list(out), replay.out_spec)


@dataclass
class _Replay:
    """What is needed to make the steps of a segment, as often as one likes."""

    loss_fn: LossFn
    segments: list[list[Batch]]
    rule: UpdateRule
    learned: list[Tensor]
    spec: Any  # of (params, state)
    options: dict[str, Any]
    precision: tuple[str, torch.dtype, bool]  # autocast's device, dtype, and whether it is on
    out_spec: Any = None

    def __post_init__(self) -> None:
        self.versions = _versions(self.segments)  # saving K batches makes holes in memory

    def run(
        self, leaves: Sequence[Tensor], spec: Any, segment: list[Batch], differentiable: bool
    ) -> Trajectory:
        params, state = tree_unflatten(list(leaves), spec)
        parts = (self.loss_fn, params, segment, self.rule, state)
        kind, dtype, enabled = self.precision
        with torch.autocast(kind, dtype, enabled), with_autograd(self.rule):
            return unroll_eager(*parts, differentiable=differentiable, **self.options)

    def all(self, leaves: Sequence[Tensor]) -> tuple[Trajectory, list[tuple]]:
        """Make all steps without a graph; return where they lead, and each segment's start."""
        starts, parts, leaves, spec = [], [], [leaf.detach() for leaf in leaves], self.spec
        for segment in self.segments:
            starts.append((leaves, spec, _random_states(leaves)))
            parts.append(self.run(leaves, spec, segment, differentiable=False))
            leaves, spec = tree_flatten(parts[-1][:2])  # a rule may turn the order of its state
        return join(parts, self.options["time_dim"]), starts


class _Checkpointed(torch.autograd.Function):
    """From the rule's parameters, params and state, all flat, to a flat ``Trajectory``."""

    @staticmethod
    def forward(ctx: Any, replay: _Replay, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(replay.learned)
        trajectory, ctx.starts = replay.all(tensors[count:])
        out, replay.out_spec = tree_flatten(trajectory)
        ctx.replay = replay
        ctx.save_for_backward(*tensors)  # so that a change of one before the backward pass is seen
        ctx.mark_non_differentiable(*[x for x in out if not x.is_floating_point()])
        ctx.set_materialize_grads(False)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor | None) -> tuple:
        replay, count = ctx.replay, len(ctx.replay.learned)
        start = ctx.saved_tensors[count:]
        if replay.versions != _versions(replay.segments):
            raise RuntimeError("a batch was changed in place before the backward pass")
        starts, ctx.starts = ctx.starts or replay.all(start)[1], None  # let go of one by one
        d_learned = [torch.zeros_like(p) for p in replay.learned]
        d_leaves = d_out[: len(start)]
        d_time = d_out[len(start) :]  # of losses and signals, all K at once
        end = sum(map(len, replay.segments))
        for segment in reversed(replay.segments):
            leaves, spec, random_states = starts.pop()
            d_now = [_slice(d, end - len(segment), end, replay) for d in d_time]
            with _drawing_from(random_states):
                grads = _segment_gradients(replay, leaves, spec, segment, [*d_leaves, *d_now])
            d_leaves, end = grads[count:], end - len(segment)
            d_learned = [d if g is None else d + g for d, g in zip(d_learned, grads[:count])]
        return None, *d_learned, *d_leaves


def _segment_gradients(
    replay: _Replay,
    leaves: Sequence[Tensor],
    spec: Any,
    segment: list[Batch],
    d_out: list[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradients of what a segment leads to, times ``d_out``: for the rule's parameters, then
    for the leaves it starts from."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in leaves]
        out = tree_flatten(replay.run(leaves, spec, segment, differentiable=True))[0]
        pairs = [(x, d) for x, d in zip(out, d_out, strict=True) if d is not None]
        pairs = [(x, d) for x, d in pairs if x.requires_grad]
    sources = [x for x in [*replay.learned, *leaves] if x.requires_grad]
    grads = [None] * len(sources)
    if pairs:
        ends, cotangents = zip(*pairs)
        grads = torch.autograd.grad(ends, sources, cotangents, allow_unused=True)
    remaining = iter(grads)
    return tuple(next(remaining) if x.requires_grad else None for x in [*replay.learned, *leaves])


def _segments(batches: Sequence[Batch]) -> list[list[Batch]]:
    """Cut K batches into pieces of n, n - 1, ... of them, the least n with n (n + 1) / 2 >= K."""
    length = 1
    while length * (length + 1) // 2 < len(batches):
        length += 1
    pieces, at = [], 0
    while at < len(batches):
        pieces.append(list(batches[at : at + length]))
        at, length = at + length, length - 1
    return pieces


def _slice(d: Tensor | None, begin: int, end: int, replay: _Replay) -> Tensor | None:
    return None if d is None else d.narrow(replay.options["time_dim"], begin, end - begin)


def _refuse_other_sources(replay: _Replay, leaves: Sequence[Tensor], batch: Batch) -> None:
    """Take a loss and a move with all that is known cut off from any graph: if they still have one,
    there is a source of gradients that the backward pass would not find."""
    learned_data = any(x.requires_grad for x in _tensors(replay.segments))
    params, state = tree_unflatten([x.detach() for x in leaves], replay.spec)
    zeros = {name: torch.zeros_like(p) for name, p in params.items()}
    weights = {name: p.detach() for name, p in replay.rule.named_parameters()}
    with torch.enable_grad(), _drawing_from(_random_states(leaves)):  # which draws nothing new
        loss = replay.loss_fn(params, batch)
        step = call_with(replay.rule, weights, params, zeros, state, loss.detach())
    if learned_data or any(x.requires_grad for x in tree_leaves((loss, tuple(step)))):
        raise ValueError(
            "the checkpoint backend finds gradients of the rule's own parameters, the initial"
            " weights and the initial state, but the steps depend on others too: use 'eager'"
        )


def _versions(batches: Any) -> list[int]:
    return [version(x) for x in _tensors(batches)]


def _tensors(batches: Any) -> list[Tensor]:
    return [x for x in tree_leaves(batches) if isinstance(x, Tensor)]


def _precision(leaves: Sequence[Tensor]) -> tuple[str, torch.dtype, bool]:
    kind = leaves[0].device.type
    return kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)


def _random_states(leaves: Sequence[Tensor]) -> list[Tensor]:
    """The states of the generators that a loss with dropout would draw from."""
    on_gpu = any(leaf.is_cuda for leaf in leaves)
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_gpu else [])]


@contextmanager
def _drawing_from(states: list[Tensor]) -> Iterator[None]:
    """For a while, draw again what was drawn from these states on."""
    gpus = [torch.cuda.current_device()] if len(states) > 1 else []
    with torch.random.fork_rng(gpus):
        torch.set_rng_state(states[0])
        if gpus:
            torch.cuda.set_rng_state(states[1])
        yield
