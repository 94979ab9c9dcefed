"""Slot hw5: an unroll of momentum SGD that keeps one state, however long it is.

Letters: K inner steps, D weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nested.conformance.check import Check, Evidence, Verdict
from nested.homework.slots.slot import Slot
from nested.homework.slots.unrolls import LOSSES, UNROLL_CHECKS, RemoteUnroll, serve_unroll
from nested.levels.forward import Batch, Params

WEIGHTS = 250_000  # D, float64: 2 MB each of weights, buffer, gradient
SHORT, LONG = 2, 66  # K
ALLOWED = 3  # states of weights and buffer that LONG - SHORT more steps may take
IN_ALL = 16  # states that LONG may take in all: a large start is no way to hide growth


def wide_loss(params: Params, batch: Batch) -> Tensor:
    """A loss, (), of D weights {"w": (D,)} for a batch of one number, (): curved, and cheap."""
    return 0.5 * ((torch.tanh(params["w"]) - batch) ** 2).sum()


def _probe_memory(unroll: RemoteUnroll, seed: int) -> Evidence:
    """Peak memory of the student's process, in bytes, after short and after long unrolls."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(WEIGHTS, generator=generator, dtype=torch.float64)
    peaks = {}
    for steps in (SHORT, SHORT, LONG):  # the first loads what is loaded once
        lr, momentum = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.1, 0.9))
        batches = [torch.tensor(0.1 * k, dtype=torch.float64) for k in range(steps)]
        weights = start.clone().requires_grad_()
        moved, losses = unroll({"w": weights}, batches, lr, momentum, loss="wide")
        grads = torch.autograd.grad(moved["w"].sum() + losses.sum(), [weights, lr, momentum])
        _check_slope(unroll, start, batches, grads[1].item())
        peaks[str(steps)] = unroll.sandbox.peak_memory()  # since it was last asked
        peaks.setdefault("start", unroll.sandbox.peak_memory())  # what it holds between unrolls
    return peaks


def _check_slope(unroll: RemoteUnroll, start: Tensor, batches: list[Batch], slope: float) -> None:
    """Raise ``ValueError`` unless ``slope``, the hypergradient of the learning rate, is that of a
    wiggle: an unroll that goes only part of the way back needs little memory too."""
    ends, momentum = [], torch.tensor(0.9, dtype=torch.float64)
    with torch.no_grad():
        for lr in (0.1 + 1e-6, 0.1 - 1e-6):
            rate = torch.tensor(lr, dtype=torch.float64)
            moved, losses = unroll({"w": start}, batches, rate, momentum, loss="wide")
            ends.append((moved["w"].sum() + losses.sum()).item())
    truth = (ends[0] - ends[1]) / 2e-6
    if not abs(slope - truth) < 1e-3 * abs(truth):
        steps = len(batches)
        raise ValueError(f"through {steps} steps d / d lr is {slope:.6g}, by wiggling {truth:.6g}")


def _judge_memory(evidence: Evidence) -> Verdict:
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
