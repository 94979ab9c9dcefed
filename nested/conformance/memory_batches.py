"""Check that a memory reads texts of different length as it reads each alone, and that what it does
not write leaves no trace.

Letters: B samples, T tokens, D width.
Source: the contract of ``lengths``, ``write``, ``pick`` and ``stack_states`` in ``nested.memory``.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from nested.conformance.check import Check, Evidence, judge_equal
from nested.conformance.memory_reads import Make, draw, leaves, made, memories
from nested.conformance.small_problem import detached_copy
from nested.levels.forward import State
from nested.memory.state import pick, stack_states

SAMPLES, TOKENS, MORE = 3, 27, 5  # more than three chunks, then a few more tokens


@torch.no_grad()
def _probe_lengths(make: Make, seed: int) -> Evidence:
    """Read three texts in two pieces, cut at every token, each with lengths of its own. Then read
    on from the states of all three."""
    memory, generator = made(make, seed), Generator().manual_seed(seed)
    x, more = draw(memory, seed, SAMPLES, TOKENS), draw(memory, seed + 1, SAMPLES, MORE)
    ours, others = [], []
    for cut in range(1, TOKENS):
        first = torch.randint(1, cut + 1, (SAMPLES,), generator=generator)
        second = torch.randint(TOKENS - cut + 1, (SAMPLES,), generator=generator)
        y1, state = memory(_padded(x[:, :cut], first), lengths=first)
        y2, state = memory(_padded(x[:, cut:], second), state, lengths=second)
        after, _ = memory(more, state)
        states = []
        for b, (m, n) in enumerate(zip(first.tolist(), second.tolist())):
            y, own = memory(torch.cat([x[b, :m], x[b, cut : cut + n]])[None])
            ours += [torch.cat([y1[b, :m], y2[b, :n]]), y1[b, m:], y2[b, n:], after[b]]
            others += [y[0], torch.zeros_like(y1[b, m:]), torch.zeros_like(y2[b, n:])]
            others.append(memory(more[b : b + 1], own)[0][0])
            states.append(own)
        ours += _numbers(state, stack_states(states))
        others += _numbers(stack_states(states), state)
    return {"ours": detached_copy(ours), "others": detached_copy(others)}


def _padded(x: Tensor, lengths: Tensor) -> Tensor:
    """Replace what follows ``lengths`` (B,) in x (B, T, ...) by numbers that no text has."""
    x = x.clone()
    for b, length in enumerate(lengths.tolist()):
        x[b, length:] = torch.nan if x.is_floating_point() else -1
    return x


def _numbers(state: State, like: State) -> list[Tensor]:
    """List the tensors (B, ...) of ``state``, with caches filled up to the size of ``like``."""
    both = stack_states([state, like])
    return [leaf[: len(leaf) // 2] for leaf in leaves(both)]


@torch.no_grad()
def _probe_written(make: Make, seed: int) -> Evidence:
    """Leave tokens unwritten at random: compare with texts without these tokens. In a model only
    the memories leave them out, so there a batch is compared with its samples alone."""
    memory, generator = made(make, seed), Generator().manual_seed(seed)
    x = draw(memory, seed, SAMPLES, TOKENS)
    write = torch.rand(x.shape[:2], generator=generator) < 0.6
    write[:, -1] = True
    y, state = memory(x, write=write)
    ours, others, states = [], [], []
    for b, mask in enumerate(write):
        if hasattr(memory, "config"):
            alone, own = memory(x[b : b + 1], write=mask[None])
            alone = alone[:, mask]
        else:
            alone, own = memory(x[b : b + 1, mask])
        ours.append(y[b, mask])
        others.append(alone[0])
        states.append(own)
    ours += leaves(state)
    others += leaves(stack_states(states))
    _, still = memory(x, state, write=torch.zeros_like(write))
    ours += [leaf for part in memories(still) for leaf in leaves(part)]
    others += [leaf for part in memories(state) for leaf in leaves(part)]
    return {"ours": detached_copy(ours), "others": detached_copy(others)}


@torch.no_grad()
def _probe_picked(make: Make, seed: int) -> Evidence:
    """Reorder, repeat and drop samples of a state, and read on from it."""
    memory = made(make, seed)
    x, more = draw(memory, seed, SAMPLES, TOKENS), draw(memory, seed + 1, SAMPLES, MORE)
    order = [2, 0, 0, 1]
    after, _ = memory(more, memory(x)[1])
    ours, _ = memory(more[order], pick(memory(x)[1], order))
    return {"ours": [ours], "others": [after[order]]}


BATCH_CHECKS = [
    Check(
        "padding leaves no trace, at every cut",
        _probe_lengths,
        judge_equal("write and count only the first lengths[b] tokens of sample b"),
    ),
    Check(
        "tokens left unwritten leave no trace",
        _probe_written,
        judge_equal("keep the state as if tokens that write=... leaves out were not in the text"),
    ),
    Check(
        "samples of a state can be picked",
        _probe_picked,
        judge_equal("give every tensor of the state a row for each sample"),
    ),
]
