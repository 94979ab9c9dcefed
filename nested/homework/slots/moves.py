"""Check that a rule moves by its signals: moves over rates are gradients plus a buffer.

Letters: K steps, P tensors of weights. Source: ``torch.optim.SGD``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from nested.conformance.check import Evidence, Verdict
from nested.conformance.small_problem import nudged, small_params
from nested.levels.forward import Params
from nested.levels.rule import UpdateRule
from nested.tasks.digits import Digits

STEPS = 3  # K, measured one by one
CLOSE = 1e-6
DEEP = 4  # hidden layers of the large net


def large_params(seed: int) -> Params:
    """Draw the weights {name: (...)} of a net on digits with ``DEEP`` hidden layers, in float64.

    With it a check covers rules that behave differently on large nets."""
    generator = Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in Digits(depth=DEEP).model.named_parameters()}
    return {n: torch.randn(s, generator=generator).double() / 4 for n, s in shapes.items()}


NETS = {"the small net": small_params, "a large net": large_params}


def probe_moves(rule: UpdateRule, seed: int) -> Evidence:
    """Record K steps on each net: signals, (P,) or () each, gradients and moves {name: (...)}.

    Raises ``ValueError`` for a rule without an lr among its signals."""
    rule = nudged(rule, seed)
    return {
        net: _moves(rule, [draw(seed + k) for k in range(STEPS + 1)]) for net, draw in NETS.items()
    }


def _moves(rule: UpdateRule, draws: list[Params]) -> dict[str, list[Any]]:
    (params, *grads), signals, moves = draws, [], []
    state = rule.init(params)
    for k in range(STEPS):
        with torch.no_grad():
            step = rule(params, grads[k], state, torch.tensor(1.0 + k, dtype=torch.float64))
        if "lr" not in step.signals:
            raise ValueError(f"signals has no 'lr', only {sorted(step.signals)}")
        signals.append(step.signals)
        moves.append({name: params[name] - step.params[name] for name in params})
        params, state = step.params, step.state
    return {"signals": signals, "grads": grads, "moves": moves}


def judge_moves(evidence: Evidence) -> Verdict:
    """Judge whether each move over its rate is the gradient plus mu times the buffer before it.

    There must be one mu, and it must be the momentum among the signals, if that is there."""
    errors = []
    for net, record in evidence.items():
        buffer = torch.zeros(())
        steps = zip(record["signals"], record["grads"], record["moves"], strict=True)
        for at, (signals, grads, moves) in enumerate(steps, start=1):
            pairs = zip(signals["lr"].expand(len(moves)), moves.values(), strict=True)
            directions = torch.cat([(move / rate).flatten() for rate, move in pairs])
            given = torch.cat([g.flatten() for g in grads.values()])
            past = (buffer * buffer).sum()
            mu = ((directions - given) * buffer).sum() / past if past > 0 else past
            apart = (directions - given - mu * buffer).abs().max().item()
            errors.append(f"{apart:.1g} at mu {mu:.2f}")
            named_mu = signals.get("momentum", mu) if past > 0 else mu
            if not (apart < CLOSE and -CLOSE < mu < 1 and (named_mu - mu).abs().max() < CLOSE):
                measured = f"at step {at} of {net} move / lr differs from g + mu v by {errors[-1]}"
                if apart < CLOSE:
                    measured += f", but the momentum among the signals is {named_mu.mean():.2f}"
                hint = "v <- mu v + g from v = 0, one mu from 0 to below 1; w <- w - lr v"
                return Verdict(False, measured, hint)
            buffer = given + mu * buffer
    return Verdict(
        True, f"in {len(errors)} steps move / lr and g + mu v differ by {', '.join(errors)}"
    )
