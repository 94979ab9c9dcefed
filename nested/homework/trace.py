"""Find where the graph of a student's unroll is cut, from its values and slopes alone.

The student's function runs on a problem of one weight, for 1, 2, ... K steps. Its slopes are those
with respect to the first weight, the learning rate and the momentum. They are compared with the
slopes of graphs that lack a few edges. The smallest set of missing edges that explains every slope
gives the cuts. The student's code is never inspected, so any style works: a loop, ``torch.func``,
or a backward pass written by hand.

Letters: K inner steps. Equations: v_(k+1) = mu v_k + g(w_k), w_(k+1) = w_k - eta v_(k+1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch

from nested.homework.slots.unrolls import RemoteUnroll

TARGETS = (0.3, -0.4, 0.6, 0.1)  # of K steps
CLOSE = 1e-6


class Edges(NamedTuple):
    """The edges of one step: True for each edge that is in the graph."""

    weights: bool  # w_k to w_(k+1)
    gradient: bool  # w_k, through the gradient, to v_(k+1)
    buffer: bool  # v_k to v_(k+1)
    move: bool  # v_(k+1) to w_(k+1)
    lr: bool  # eta to w_(k+1)
    momentum: bool  # mu to v_(k+1)


WHOLE = Edges(*[True] * len(Edges._fields))


class Problem(NamedTuple):
    """A first weight, a learning rate and a momentum."""

    weight: float
    lr: float
    momentum: float


PROBLEMS = (Problem(1.0, 0.2, 0.6), Problem(-0.8, 0.35, 0.45))


@dataclass(frozen=True)
class Trace:
    """The behaviour of an unroll: K + 1 weights, K losses, and the edges of the first steps.

    ``trouble`` says why later steps cannot be explained. It is empty when all are."""

    weights: list[float]
    losses: list[float]
    edges: list[Edges]
    trouble: str = ""


class _Run(NamedTuple):
    weights: list[float]  # K + 1
    buffers: list[float]  # K + 1, from 0
    curvatures: list[float]  # K, second derivatives of the loss
    losses: list[float]  # K


def trace(unroll: RemoteUnroll) -> Trace:
    """Run a student's ``unroll``, and return its values and the edges that explain its slopes.

    The values are those of the first problem, the edges those of all problems. Exceptions of the
    student's code pass through."""
    observed = [_ask(unroll, problem) for problem in PROBLEMS]
    expected = [_simulate(problem) for problem in PROBLEMS]
    weights, losses, _ = observed[0]
    for k in range(len(TARGETS)):
        pairs = [(s[1][k], e.losses[k]) for s, e in zip(observed, expected)]
        pairs += [(s[0][k + 1], e.weights[k + 1]) for s, e in zip(observed, expected)]
        if not all(_is_close(ours, theirs) for ours, theirs in pairs):
            return Trace(weights, losses, [], f"step {k} is no step of momentum SGD")
    edges = _explain(expected, [slopes for _, _, slopes in observed])
    if len(edges) == len(TARGETS):
        return Trace(weights, losses, edges)
    trouble = f"from step {len(edges)} on the slopes are wrong, and no cut explains them"
    return Trace(weights, losses, edges, trouble)


def _ask(unroll: RemoteUnroll, problem: Problem) -> tuple[list[float], list[float], list]:
    """Return the weights after 0 to K steps, the K losses, and the slopes of the weights after 1 to
    K steps with respect to the problem's three numbers."""
    weights, slopes = [problem.weight], []
    for steps in range(1, len(TARGETS) + 1):
        inputs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in problem]
        batches = [torch.tensor(target, dtype=torch.float64) for target in TARGETS[:steps]]
        after, losses = unroll({"w": inputs[0]}, batches, *inputs[1:], loss="one weight")
        grads = torch.autograd.grad(after["w"], inputs, materialize_grads=True, allow_unused=True)
        weights.append(after["w"].item())
        slopes.append([grad.item() for grad in grads])
    return weights, losses.tolist(), slopes


def _simulate(problem: Problem) -> _Run:
    run = _Run([problem.weight], [0.0], [], [])
    for target in TARGETS:
        apart = run.weights[-1] - target
        run.losses.append(math.cosh(apart))
        run.curvatures.append(math.cosh(apart))
        run.buffers.append(problem.momentum * run.buffers[-1] + math.sinh(apart))
        run.weights.append(run.weights[-1] - problem.lr * run.buffers[-1])
    return run


def _is_close(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= CLOSE * (1 + abs(theirs))  # False for NaN


# --- which edges explain the slopes --------------------------------------------------------------

Slopes = tuple[tuple[float, float], ...]  # of (w, v), for each problem's three numbers in turn
START: Slopes = ((1.0, 0.0), (0.0, 0.0), (0.0, 0.0))  # of one problem, before the first step


def _explain(expected: Sequence[_Run], observed: Sequence[list]) -> list[Edges]:
    """Find the edges of each step, with the fewest cuts.

    The cuts are the same at each step, if that explains the slopes. Otherwise each step has its
    cuts, and the list ends before the first step that nothing explains."""
    steps = range(len(TARGETS))
    for flags in sorted(product((True, False), repeat=len(WHOLE)), key=lambda f: f.count(False)):
        now, slopes, edges = Edges(*flags), START * len(expected), []
        for k in steps:
            edges.append(now if k else now._replace(buffer=True, momentum=True))
            slopes = _step(edges[k], k, expected, slopes)
            if not _fits(slopes, observed, k):
                break
        else:
            return edges
    return _explain_step_by_step(expected, observed)


def _explain_step_by_step(expected: Sequence[_Run], observed: Sequence[list]) -> list[Edges]:
    known: dict[tuple, tuple[int, list[Edges], Slopes]] = {(): (0, [], START * len(expected))}
    for k in range(len(TARGETS)):
        further: dict[tuple, tuple[int, list[Edges], Slopes]] = {}
        for cuts, edges, slopes in known.values():
            for flags in product((True, False), repeat=len(WHOLE)):
                now = Edges(*flags)
                if k == 0 and not (now.buffer and now.momentum):
                    continue  # the first buffer is 0, so a cut there changes nothing
                after = _step(now, k, expected, slopes)
                if _fits(after, observed, k):
                    entry = (cuts + flags.count(False), [*edges, now], after)
                    key = tuple(round(v, 9) for _, v in after)
                    further[key] = min(further.get(key, entry), entry, key=lambda e: e[0])
        if not further:
            break
        known = further
    return min(known.values(), key=lambda entry: entry[0])[1]


def _fits(slopes: Slopes, observed: Sequence[list], k: int) -> bool:
    ours = [slope for run in observed for slope in run[k]]
    return all(map(_is_close, ours, (w for w, _ in slopes)))


def _step(edges: Edges, k: int, expected: Sequence[_Run], slopes: Slopes) -> Slopes:
    """Compute the slopes of w_(k+1) and v_(k+1) from those of w_k and v_k."""
    after = []
    for i, (w, v) in enumerate(slopes):
        problem, run, number = PROBLEMS[i // 3], expected[i // 3], Problem._fields[i % 3]
        v = edges.buffer * problem.momentum * v + edges.gradient * run.curvatures[k] * w
        if number == "momentum":
            v += edges.momentum * run.buffers[k]
        w = edges.weights * w - problem.lr * edges.move * v
        if number == "lr":
            w -= edges.lr * run.buffers[k + 1]
        after.append((w, v))
    return tuple(after)
