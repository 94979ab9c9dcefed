"""Slot hw5: an unroll of momentum SGD that keeps one state, for any number of steps.

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
RATES, DELTA = (0.1, 0.9), 1e-6  # learning rate and momentum
CLOSE = 1e-5  # relative error of a slope
SLOPES = ("initial weights", "learning rate", "momentum")
ALLOWED = 3  # states of weights and buffer that LONG - SHORT more steps may need
IN_ALL = 16  # states that LONG may need in all, so that a large start cannot hide growth


def wide_loss(params: Params, batch: Batch) -> Tensor:
    """Compute a loss, (), of D weights {"w": (D,)} for a batch of one number, ().

    It is curved and cheap, and each weight's gradient depends on all other weights."""
    t = torch.tanh(params["w"])
    return 0.5 * ((t - batch) ** 2).sum() + 0.5 * t.sum() ** 2 / len(t)


def _probe_memory(unroll: RemoteUnroll, seed: int) -> Evidence:
    """Measure the peak memory of the student's process, in bytes, in short and in long unrolls.

    Also compute the slopes of a mix of the long unroll's results."""
    (start, mix, way), peaks = _drawn(seed), {}
    for steps in (SHORT, SHORT, LONG):  # the first run loads libraries
        batches = _batches(steps)
        points = [start, *(torch.tensor(x, dtype=torch.float64) for x in RATES)]
        weights, *rates = points = [x.clone().requires_grad_() for x in points]
        after, losses = unroll({"w": weights}, batches, *rates, loss="wide")
        total = (after["w"] * mix).sum() + losses.sum()
        grads = torch.autograd.grad(total, points, materialize_grads=True)
        peaks[str(steps)] = unroll.sandbox.peak_memory()  # since the last call
        peaks.setdefault("start", unroll.sandbox.peak_memory())  # in use between unrolls
    by_autograd = [(grads[0] * way).sum().item(), *(g.item() for g in grads[1:])]
    pairs = zip(SLOPES, by_autograd, _differences(seed), strict=True)
    return {**peaks, "slopes": {name: both for name, *both in pairs}}


def _drawn(seed: int) -> list[Tensor]:
    """Draw the first weights, a mix of the last weights, and a direction, (D,) each."""
    generator = torch.Generator().manual_seed(seed)
    start, mix, way = (
        torch.randn(WEIGHTS, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    return [start, 1 + mix, 1 + way]  # the last two share a part over all weights


def _batches(steps: int) -> list[Batch]:
    return [torch.tensor(0.1 * k, dtype=torch.float64) for k in range(steps)]


@cache
def _differences(seed: int) -> list[float]:
    """Compute the slopes along a direction of the weights and in both rates, by central differences
    of torch.optim.SGD.

    They expose an unroll that saves memory because it goes back only a few steps. They are the same
    for every student, so a class computes them once."""
    (start, mix, way), batches = _drawn(seed), _batches(LONG)
    slopes = []
    for along, lr, momentum in ((way, 0, 0), (0 * way, 1, 0), (0 * way, 0, 1)):
        ends = []
        for by in (DELTA, -DELTA):
            rates = {"lr": RATES[0] + by * lr, "momentum": RATES[1] + by * momentum}
            weights = (start + by * along).requires_grad_()
            sgd, total = torch.optim.SGD([weights], **rates), 0.0
            for batch in batches:
                loss = wide_loss({"w": weights}, batch)
                (weights.grad,) = torch.autograd.grad(loss, weights)
                total += loss.item()
                sgd.step()
            ends.append(total + (weights.detach() * mix).sum().item())
        slopes.append((ends[0] - ends[1]) / (2 * DELTA))
    return slopes


def _judge_memory(evidence: Evidence) -> Verdict:
    for name, (ours, truth) in evidence["slopes"].items():
        if not abs(ours - truth) <= CLOSE * abs(truth):
            measured = (
                f"through {LONG} steps d / d {name} is {ours:.6g}, by finite difference {truth:.6g}"
            )
            return Verdict(False, measured, "on a large net, its backward pass stops too early")
    state = 2 * 8 * WEIGHTS  # bytes of weights and buffer
    growth = (evidence[str(LONG)] - evidence[str(SHORT)]) / state
    total = (evidence[str(LONG)] - evidence["start"]) / state
    measured = (
        f"{LONG} steps need {growth * state / 2**20:.0f} MiB more than {SHORT}: {growth:.1f} states"
        f" of weights and buffer, of {total:.1f} in all"
    )
    hint = "w_k = w_(k+1) + lr v_(k+1), then v_k = (v_(k+1) - g(w_k)) / mu: keep nothing else"
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
