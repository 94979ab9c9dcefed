"""Slot hw5: an unroll of momentum SGD that keeps one state, however long it is.

Letters: K inner steps, D weights.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from nested.conformance.check import Check, Evidence, Verdict
from nested.homework.slots.slot import Slot
from nested.homework.slots.unrolls import LOSSES, UNROLL_CHECKS, RemoteUnroll, serve_unroll
from nested.levels.forward import Batch, Params

WEIGHTS = 64_000  # D, float64: 512 kB each of weights, buffer, gradient
SHORT, LONG = 2, 66  # K
RATES, WIGGLE = (0.1, 0.9), 1e-6  # learning rate and momentum
CLOSE = 1e-5  # of a slope
SLOPES = ("initial weights", "learning rate", "momentum")
ALLOWED = 3  # states of weights and buffer that LONG - SHORT more steps may take
IN_ALL = 16  # states that LONG may take in all: a large start is no way to hide growth


def wide_loss(params: Params, batch: Batch) -> Tensor:
    """A loss, (), of D weights {"w": (D,)} for a batch of one number, (): curved, cheap, and such
    that each weight's gradient depends on all others."""
    t = torch.tanh(params["w"])
    return 0.5 * ((t - batch) ** 2).sum() + 0.5 * t.sum() ** 2 / len(t)


def _probe_memory(unroll: RemoteUnroll, seed: int) -> Evidence:
    """Peak memory of the student's process, in bytes, after short and after long unrolls; and the
    slopes of a mix of what comes back from the long one."""
    (start, mix, way), peaks = _drawn(seed), {}
    for steps in (SHORT, SHORT, LONG):  # the first loads what is loaded once
        batches = _batches(steps)
        points = [start, *(torch.tensor(x, dtype=torch.float64) for x in RATES)]
        weights, *rates = points = [x.clone().requires_grad_() for x in points]
        moved, losses = unroll({"w": weights}, batches, *rates, loss="wide")
        total = (moved["w"] * mix).sum() + losses.sum()
        grads = torch.autograd.grad(total, points, materialize_grads=True)
        peaks[str(steps)] = unroll.sandbox.peak_memory()  # since it was last asked
        peaks.setdefault("start", unroll.sandbox.peak_memory())  # what it holds between unrolls
    by_autograd = [(grads[0] * way).sum().item(), *(g.item() for g in grads[1:])]
    pairs = zip(SLOPES, by_autograd, _differences(seed), strict=True)
    return {**peaks, "slopes": {name: both for name, *both in pairs}}


def _drawn(seed: int) -> list[Tensor]:
    """The first weights, a mix of the last ones, and a way to change the first, (D,) each."""
    generator = torch.Generator().manual_seed(seed)
    start, mix, way = (
        torch.randn(WEIGHTS, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    return [start, 1 + mix, 1 + way]  # some of the last two all weights have in common


def _batches(steps: int) -> list[Batch]:
    return [torch.tensor(0.1 * k, dtype=torch.float64) for k in range(steps)]


@cache
def _differences(seed: int) -> list[float]:
    """The slopes along a way of the weights and in both rates, as central differences of
    torch.optim.SGD: an unroll that goes only part of the way back needs little memory too. No
    student has a part in them, so a class computes them once."""
    (start, mix, way), batches = _drawn(seed), _batches(LONG)
    slopes = []
    for along, lr, momentum in ((way, 0, 0), (0 * way, 1, 0), (0 * way, 0, 1)):
        ends = []
        for by in (WIGGLE, -WIGGLE):
            rates = {"lr": RATES[0] + by * lr, "momentum": RATES[1] + by * momentum}
            weights = (start + by * along).requires_grad_()
            sgd, total = torch.optim.SGD([weights], **rates), 0.0
            for batch in batches:
                loss = wide_loss({"w": weights}, batch)
                (weights.grad,) = torch.autograd.grad(loss, weights)
                total += loss.item()
                sgd.step()
            ends.append(total + (weights.detach() * mix).sum().item())
        slopes.append((ends[0] - ends[1]) / (2 * WIGGLE))
    return slopes


def _judge_memory(evidence: Evidence) -> Verdict:
    for name, (ours, truth) in evidence["slopes"].items():
        if not abs(ours - truth) <= CLOSE * abs(truth):
            measured = f"through {LONG} steps d / d {name} is {ours:.6g}, by wiggling {truth:.6g}"
            return Verdict(False, measured, "it goes only part of the way back on a large net")
    state = 2 * 8 * WEIGHTS  # bytes of weights and buffer
    growth = (evidence[str(LONG)] - evidence[str(SHORT)]) / state
    total = (evidence[str(LONG)] - evidence["start"]) / state
    measured = (
        f"{LONG} steps need {growth * state / 2**20:.0f} MiB more than {SHORT}: {growth:.1f} states"
        f" of weights and buffer, of {total:.1f} in all"
    )
    hint = "w_k = w_(k+1) + lr v_(k+1), then v_k = (v_(k+1) - g(w_k)) / mu: nothing need be kept"
    return Verdict(growth < ALLOWED and total < IN_ALL, measured, hint)


SLOT = Slot(
    name="hw5",
    file="hw5_reversible.py",
    title="Run it backwards",
    serve=serve_unroll("reversible_unroll", {**LOSSES, "wide": wide_loss}),
    subject=RemoteUnroll,
    checks=[*UNROLL_CHECKS, Check("it keeps one state, not K", _probe_memory, _judge_memory)],
    unroll=RemoteUnroll,
)
