"""The contract of a sequence memory or model, as checks that every one of them must pass.

A check gets ``make(dim, chunk)``, which makes a new memory of width ``dim``. Its chunks, or the
period of its fastest level, are ``chunk`` tokens. Letters: B samples, T tokens, D width.
Source: Behrouz et al. 2025 (arXiv 2512.24695), section 3, and the needs of ``nested.models``.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from nested.conformance.check import (
    Check,
    Evidence,
    Result,
    Verdict,
    judge_equal,
    largest,
    require,
    run_check,
)
from nested.conformance.memory_batches import BATCH_CHECKS
from nested.conformance.memory_gradients import GRADIENT_CHECKS
from nested.conformance.memory_reads import (
    CHUNK,
    DIM,
    Make,
    draw,
    in_parts,
    leaves,
    made,
    memories,
)
from nested.conformance.small_problem import detached_copy
from nested.levels.forward import State
from nested.memory.gates import shut

TOKENS, LONG = 67, 300


def check_memory(make: Make, seed: int = 0) -> list[Result]:
    """Run ``MEMORY_CHECKS`` on the memories that ``make(dim, chunk)`` returns, and return the
    results.

    ``make`` may also return models, which have a ``config`` with their ``vocab``. Inputs are drawn
    from ``seed``. Raises ``ConformanceError``, with one line for each failed check, if any failed.
    """
    results = [run_check(check, make, seed) for check in MEMORY_CHECKS]
    require(results, getattr(make, "__name__", "the memory"))
    return results


@torch.no_grad()
def _probe_parts(make: Make, seed: int) -> Evidence:
    memory = made(make, seed)
    x = draw(memory, seed)
    y, state = memory(x)
    cuts = [[at, TOKENS - at] for at in range(1, TOKENS)]
    cuts += [[1] * TOKENS, [5] * 13 + [2], [3, 20, 1, 43]]
    ours, others = [], []
    for sizes in cuts:
        read, after = in_parts(memory, x, sizes)
        ours += [read, *leaves(after)]
        others += [y, *leaves(state)]
    x = draw(memory, seed, tokens=LONG)
    whole = memory(x)
    for sizes in ([128, LONG - 128], [200, LONG - 200]):
        read, after = in_parts(memory, x, sizes)
        ours += [read, *leaves(after)]
        others += [whole[0], *leaves(whole[1])]
    return {"ours": detached_copy(ours), "others": detached_copy(others)}


@torch.no_grad()
def _probe_causal(make: Make, seed: int) -> Evidence:
    """Change a token and all later ones: measure the change of reads before and after it."""
    memory = made(make, seed)
    x, other = draw(memory, seed), draw(memory, seed + 1)
    y, before, after = memory(x)[0], [], []
    for at in range(1, TOKENS, 5):
        changed = memory(torch.cat([x[:, :at], other[:, at:]], dim=1))[0]
        before.append((changed - y)[:, :at].abs().max().item())
        after.append((changed - y)[:, at:].abs().max().item())
    first = memory(torch.cat([other[:, :1], x[:, 1:]], dim=1))[0]
    return {"before": before, "after": after, "far": (first - y)[:, CHUNK + 4 :].abs().max().item()}


def _judge_causal(evidence: Evidence) -> Verdict:
    before, after = largest(evidence["before"]), min(evidence["after"])
    if not before < 1e-9:
        measured = f"later tokens change earlier reads by {before:.2g}"
        return Verdict(False, measured, "does a read of a chunk use its later tokens?")
    measured = f"a token changes its read and later ones by {after:.2g}, and far ones by"
    measured += f" {evidence['far']:.2g}"
    alive = after > 1e-9 and evidence["far"] > 1e-6 * after
    return Verdict(alive, measured, "nothing is remembered")


@torch.no_grad()
def _probe_samples(make: Make, seed: int) -> Evidence:
    memory = made(make, seed)
    x = draw(memory, seed, samples=5)
    together, state = memory(x)
    more = memory(x, state)[0]
    alone, again = [], []
    for i in range(5):
        y, after = memory(x[i : i + 1])
        alone.append(y)
        again.append(memory(x[i : i + 1], after)[0])
    return {
        "ours": detached_copy([together, more]),
        "others": detached_copy([torch.cat(alone), torch.cat(again)]),
    }


@torch.no_grad()
def _probe_modes(make: Make, seed: int) -> Evidence:
    """Collect reads in training and evaluation mode, repeated reads, and the state passed in."""
    memory = made(make, seed)
    x = draw(memory, seed)
    _, given = memory(x[:, : CHUNK - 3])  # within its first chunk
    given_copy, weights = detached_copy(given), detached_copy(list(memory.state_dict().values()))
    runs = [memory.train()(x, given), memory.eval()(x, given), memory(x, given)]
    ours = [leaf for run in runs[1:] for leaf in leaves(list(run))]
    others = 2 * leaves(list(runs[0]))
    ours += detached_copy([*leaves(given), *memory.state_dict().values()])
    others += [*leaves(given_copy), *weights]
    for p in memory.parameters():  # as an optimizer does; a state must be no view of parameters
        p += 1
    ours += leaves(given)
    others += leaves(given_copy)
    return {"ours": detached_copy(ours), "others": detached_copy(others)}


@torch.no_grad()
def _probe_shut(make: Make, seed: int) -> Evidence:
    """Shut all gates: measure how far memories move, and whether the order of tokens matters."""
    memory = made(make, seed)
    x = draw(memory, seed)
    distance = _distance_moved(memory, x)
    shut(memory)
    evidence = {"open": distance, "shut": _distance_moved(memory, x), "order": 0.0}
    if not hasattr(memory, "config"):
        order = torch.randperm(TOKENS, generator=Generator().manual_seed(seed))
        evidence["order"] = (memory(x)[0][:, order] - memory(x[:, order])[0]).abs().max().item()
    return evidence


def _distance_moved(memory: nn.Module, x: Tensor) -> float:
    """The largest change of a number in a memory that reads x."""
    first, last = (list(memories(s)) for s in (memory.init(len(x)), memory(x)[1]))
    pairs = zip(leaves(first), leaves(last), strict=True)
    return largest([0.0, *((a - b).abs().max().item() for a, b in pairs)])


def _judge_shut(evidence: Evidence) -> Verdict:
    distance, order = evidence["shut"], evidence["order"]
    measured = f"with its gates shut a memory moves by {distance:.2g}"
    measured += f" (open: {evidence['open']:.2g})"
    measured += f", and the order of tokens changes reads by {order:.2g}"
    hint = "rate 0 and forgetting 0 leave every weight as it is, and nothing else remembers tokens"
    return Verdict(distance == 0 and order < 1e-9, measured, hint)


@torch.no_grad()
def _probe_long(make: Make, seed: int) -> Evidence:
    """Read 4,096 tokens, random and all alike, with a memory as it is made, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = make(DIM, 64)
    evidence = {}
    for kind in ("random", "constant"):
        x = draw(memory, seed, samples=1, tokens=4096)
        x = x if x.dtype == torch.int64 else x.float()
        x = x[:, :1].expand_as(x) if kind == "constant" else x
        first, (y, last) = memory.init(1), memory(x)
        shares = [
            (after.norm() / before.norm()).item()
            for before, after in zip(_weights(first), _weights(last), strict=True)
            if before.norm() > 0
        ]
        late = (y[:, -512:].norm() / y[:, :512].norm()).item()
        evidence[kind] = {"kept": -largest([-1.0, *(-share for share in shares)]), "late": late}
    return evidence


def _weights(state: State) -> list[Tensor]:
    """List the weights (1, ...) in a state, with each stack of several taken apart."""
    stacks = [leaf[0] for leaf in leaves(list(memories(state)))]
    return [w for leaf in stacks for w in (leaf if leaf.dim() == 3 else [leaf])]


def _judge_long(evidence: Evidence) -> Verdict:
    for kind, ratios in evidence.items():
        memory_left, reads_left = ratios["kept"], ratios["late"]
        measured = f"after 4,096 {kind} tokens {memory_left:.2f} of a memory's norm is left, and"
        measured += f" {reads_left:.2f} of that of reads"
        if not memory_left >= 0.1 or not 0.1 <= reads_left <= 100:
            return Verdict(False, measured, "start with little forgetting and small rates")
    return Verdict(True, measured)


MEMORY_CHECKS = [
    Check(
        "whole equals parts, at every cut",
        _probe_parts,
        judge_equal("keep in the state all that a part leaves unfinished"),
    ),
    Check("no read knows a later token", _probe_causal, _judge_causal),
    Check(
        "samples of a batch are independent",
        _probe_samples,
        judge_equal("give each sample its own memory"),
    ),
    Check(
        "reading changes nothing but the state it returns",
        _probe_modes,
        judge_equal("use no mode, no counter in the module, no write in place", within=0),
    ),
    Check("shut gates leave memories as they are", _probe_shut, _judge_shut),
    Check("memories neither fade nor run away", _probe_long, _judge_long),
    *BATCH_CHECKS,
    *GRADIENT_CHECKS,
]
