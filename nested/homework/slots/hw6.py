"""Slot hw6: a momentum that forgets along a key, which level 4 learns.

Letters: R rows, C columns of a tensor of weights.
"""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nested.conformance.check import Check, Evidence, Verdict, largest
from nested.conformance.small_problem import nudged, small_params
from nested.conformance.update_rule import UPDATE_RULE_CHECKS
from nested.homework.remote import RemoteRule, call
from nested.homework.serve import Served, serve_rule
from nested.homework.slots.moves import NETS
from nested.homework.slots.slot import Slot, without
from nested.levels.forward import Params
from nested.levels.lend import call_with

SHAPES = (
    (4, 3),
    (3, 4),
    (1, 5),
    (6, 1),
    (9, 33),
    (40, 12),
)  # (R, C) of the gradients in the checks of the key
SCALES = (0.0, 1e-30, 1.0, 1e30)
STEPS = 3
CLOSE = 1e-6
LEAST = 1e-2  # least change of a key, relative to its length


class RemoteKeyedRule(RemoteRule):
    """A proxy of a student's rule, with its key."""

    def key(self, rows: Tensor) -> Tensor:
        """Compute the key (R, C) of a gradient as ``rows`` (R, C). Exceptions pass through."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return call(self._sandbox, "key", tensors, rows)


def _serve(module: ModuleType) -> Served:
    rule = module.KeyedMomentum()

    def key(tensors: Params, rows: Tensor) -> Tensor:
        return call_with(_Key(rule), {f"rule.{name}": x for name, x in tensors.items()}, rows)

    return {**serve_rule(rule), "key": key}


class _Key(nn.Module):
    """A rule's key as a module, so that it can run with the parameters of a question."""

    def __init__(self, rule: nn.Module) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, rows: Tensor) -> Tensor:
        return self.rule.key(rows)


def _as_rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1) if x.dim() > 1 else x.reshape(1, -1)


def _probe_key(rule: Any, seed: int) -> Evidence:
    """Compute keys of gradients of many shapes and sizes, and each parameter's largest slope."""
    rule, narrow, keys = nudged(rule, seed), copy.deepcopy(rule).float(), []
    generator = torch.Generator().manual_seed(seed)
    learned = {name: p for name, p in rule.named_parameters() if p.requires_grad}
    slopes = {name: 0.0 for name in learned}
    for shape in SHAPES:
        rows = torch.randn(shape, generator=generator, dtype=torch.float64)
        mix = torch.randn(shape, generator=generator, dtype=torch.float64)
        for scale in SCALES:
            for asked, x in ((rule, scale * rows), (narrow, (scale * rows).float())):
                key = asked.key(x).detach().double().clone()
                keys.append({"rows": x.double(), "scale": scale, "key": key})
        keys.append({"rows": rows, "scale": 1.0, "key": rule.key(rows).detach()})
        with torch.no_grad():
            keys[-1]["other"] = rule.key(torch.randn(shape, generator=generator).double())
        total = (rule.key(rows) * mix).sum()
        if total.requires_grad:
            grads = torch.autograd.grad(total, list(learned.values()), materialize_grads=True)
            for name, slope in zip(learned, grads, strict=True):
                slopes[name] = max(slopes[name], slope.abs().max().item())
    return {"keys": keys, "slopes": slopes}


def _judge_bounded(evidence: Evidence) -> Verdict:
    for entry in evidence["keys"]:
        key, rows = entry["key"], entry["rows"]
        if key.shape != rows.shape:
            measured = f"the key of rows {tuple(rows.shape)} has shape {tuple(key.shape)}"
            return Verdict(False, measured, "return one number for each number of the gradient")
        if not key.norm() <= 1 + CLOSE:
            measured = f"a gradient of scale {entry['scale']:g} has a key of norm {key.norm():.3g}"
            return Verdict(
                False, measured, "divide by the norm; squares of 1e30 overflow in float32"
            )
    most = largest(entry["key"].norm().item() for entry in evidence["keys"])
    return Verdict(True, f"keys of norm up to {most:.3f}")


def _judge_learned(evidence: Evidence) -> Verdict:
    learned = [name for name, slope in evidence["slopes"].items() if slope > LEAST]
    if not learned:
        hint = "give the key parameters, and keep them in its graph"
        most = largest([0.0, *evidence["slopes"].values()])
        return Verdict(False, f"no parameter changes the key: slopes up to {most:.1g}", hint)
    for entry in evidence["keys"]:
        if "other" in entry and min(entry["key"].shape) > 1:
            rows = f"rows {tuple(entry['key'].shape)}"
            key, apart = entry["key"], entry["key"] - entry["other"]
            if not key.norm() > LEAST:
                measured = f"the key of {rows} has norm {key.norm():.1g}"
                return Verdict(False, measured, "a key of length 0 forgets nothing")
            ends = apart, apart[-(len(apart) // 3) :], apart[:, -(apart.shape[1] // 3) :]
            change = (min(end.norm() for end in ends) / key.norm()).item()
            if not change > LEAST:
                measured = f"another gradient of {rows} changes a part of the key by {change:.1g}"
                return Verdict(
                    False,
                    measured,
                    "every part of the key must depend on the gradient, in any shape",
                )
    cosine = largest(
        torch.cosine_similarity(f["key"].flatten(), f["rows"].flatten(), dim=0).abs().item()
        for f in evidence["keys"]
        if f["scale"] == 1 and min(f["rows"].shape) > 1  # a vector may have only one key
    )
    measured = f"it depends on {', '.join(learned)}; its cosine to the gradient is {cosine:.4f}"
    hint = "that is the scaled gradient, which is the key of the built-in DeltaMomentum"
    return Verdict(cosine < 1 - 1e-5, measured, hint)


def _with_a_filter(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    return {**small_params(seed), "filter": weights}


def _probe_moves(rule: Any, seed: int) -> Evidence:
    """Record gradients, keys and moves, {name: (R, C)}, and the signals of each step, on a small
    net and on a large one."""
    rule = nudged(rule, seed)
    nets = {**NETS, "the small net": _with_a_filter}
    draws = {net: [draw(seed + k) for k in range(STEPS + 1)] for net, draw in nets.items()}
    return {net: _steps(rule, drawn) for net, drawn in draws.items()}


def _steps(rule: Any, draws: list[Params]) -> list[dict[str, Any]]:
    (params, *gradients), steps = draws, []
    state = rule.init(params)
    for k, grads in enumerate(gradients):
        with torch.no_grad():
            step = rule(params, grads, state, torch.tensor(1.0 + k, dtype=torch.float64))
            keys = {name: rule.key(_as_rows(g)) for name, g in grads.items()}
        missing = {"lr", "momentum"} - set(step.signals)
        if missing:
            raise ValueError(f"signals has no {' and no '.join(sorted(missing))}")
        moves = {name: _as_rows(step.params[name] - params[name]) for name in params}
        rows = {name: _as_rows(g) for name, g in grads.items()}
        steps.append({"grads": rows, "keys": keys, "moves": moves, "signals": step.signals})
        params, state = step.params, step.state
    return steps


def _judge_moves(evidence: Evidence) -> Verdict:
    """Check that each move is m (a I - k^T k) - n g, with m the move before."""
    worst = 0.0
    for net, steps in evidence.items():
        before = {name: torch.zeros_like(g) for name, g in steps[0]["grads"].items()}
        for at, step in enumerate(steps, start=1):
            lr, momentum = step["signals"]["lr"], step["signals"]["momentum"]
            if not (lr > 0 and 0 <= momentum < 1):
                measured = f"at step {at} lr is {lr:.3g} and momentum {momentum:.3g}"
                return Verdict(False, measured, "keep lr above 0, and momentum from 0 to below 1")
            for name, move in step["moves"].items():
                m, k, g = before[name], step["keys"][name], step["grads"][name]
                apart = (move - (momentum * m - m @ k.T @ k - lr * g)).abs().max().item()
                worst = largest([worst, apart])
                if not apart < CLOSE:
                    measured = f"at step {at} {name} of {net} differs from m (a I - k^T k) - n g by"
                    hint = "w <- w + m, with the key, lr and momentum that the rule returns"
                    return Verdict(False, f"{measured} {apart:.2g}", hint)
            before = step["moves"]
    return Verdict(True, f"moves differ from m (a I - k^T k) - n g by at most {worst:.1g}")


SLOT = Slot(
    name="hw6",
    file="hw6_optimizer_memory.py",
    title="A memory with a learned key",
    serve=_serve,
    subject=RemoteKeyedRule,
    checks=[
        *without("blind to permuted coordinates", UPDATE_RULE_CHECKS),
        Check("its key is bounded", _probe_key, _judge_bounded),
        Check("its key is learned", _probe_key, _judge_learned),
        Check("it forgets along its key", _probe_moves, _judge_moves),
    ],
)
