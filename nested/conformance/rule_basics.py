"""Check one step of an update rule: repeatable, pure, well formed, and finite at extreme inputs.

Source: the contract in ``nested.levels.rule``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves

from nested.conformance.check import Check, Evidence, Verdict, largest
from nested.conformance.small_problem import (
    detached_copy,
    in_float64,
    small_batches,
    small_loss,
    small_params,
    used_state,
)
from nested.levels.forward import Params, State
from nested.levels.rule import Step, UpdateRule
from nested.unroll.dispatch import unroll
from nested.unroll.inputs import in_order

STEPS = 3  # K


def _one_step(rule: UpdateRule, params: Params, state: State, seed: int, scale: float = 1.0):
    """Take one step on the small problem, with gradients times ``scale``."""
    example = next(iter(params.values()))
    (batch,) = small_batches(1, seed, example.dtype)
    with torch.enable_grad():
        points = {name: p.detach().requires_grad_() for name, p in params.items()}
        loss = small_loss(points, batch)
        grads = torch.autograd.grad(loss, list(points.values()), materialize_grads=True)
    grads = {name: scale * g for name, g in zip(points, grads, strict=True)}
    return rule(params, grads, state, scale * loss.detach())


# --- the same every time -------------------------------------------------------------------------


def _probe_repeats(rule: UpdateRule, seed: int) -> Evidence:
    rule = in_float64(rule)
    params, batches = small_params(seed), small_batches(STEPS, seed)
    runs = []
    for other in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(other)  # global randomness must not matter
            run = unroll(small_loss, params, batches, rule, differentiable=False)
        runs.append([run.losses, *run.params.values()])
    return {"runs": detached_copy(runs)}


def _judge_repeats(evidence: Evidence) -> Verdict:
    first, second = evidence["runs"]
    apart = largest((a - b).abs().max().item() for a, b in zip(first, second, strict=True))
    hint = "does the rule draw random numbers, or keep something from run to run?"
    return Verdict(apart == 0.0, f"two equal runs differ by {apart:.2g}", hint)


# --- nothing passed in is changed ----------------------------------------------------------------


def _probe_purity(rule: UpdateRule, seed: int) -> Evidence:
    rule = in_float64(rule)
    params, state = used_state(rule, small_params(seed), seed)
    parts = {**dict(rule.named_parameters()), **dict(rule.named_buffers())}
    watched = {"params": params, "state": state, "rule": parts}
    before = detached_copy(watched)
    with torch.no_grad():
        _one_step(rule, params, state, seed)
    return {"before": before, "after": detached_copy(watched)}


def _judge_purity(evidence: Evidence) -> Verdict:
    changed = []
    for part, before in evidence["before"].items():
        pairs = zip(tree_leaves(before), tree_leaves(evidence["after"][part]), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            changed.append(part)
    hint = "make new tensors (a + b) instead of writing into old ones (a += b, a.add_(b))"
    return Verdict(not changed, f"changed in place: {', '.join(changed) or 'nothing'}", hint)


# --- names, shapes, dtypes -----------------------------------------------------------------------


def _probe_shapes(rule: UpdateRule, seed: int) -> Evidence:
    results = {}
    for dtype in (torch.float32, torch.float64):
        params = small_params(seed, dtype)
        precise = in_float64(rule).to(dtype)
        state = precise.init(params)
        with torch.no_grad():
            step = _one_step(precise, params, state, seed)
            again = _one_step(precise, step.params, step.state, seed)
        results[str(dtype)] = {
            "is_step": isinstance(step, Step),
            "wanted": _outline(params),
            "params": [_outline(step.params), _outline(again.params)],
            "states": [_outline(state), _outline(step.state), _outline(again.state)],
        }
    return results


def _outline(tree: Any) -> str:
    leaves, spec = tree_flatten(in_order(tree))
    kinds = [
        f"{tuple(x.shape)} {x.dtype} {x.device}" if torch.is_tensor(x) else repr(x) for x in leaves
    ]
    return f"{spec} {kinds}"


def _judge_shapes(evidence: Evidence) -> Verdict:
    for dtype, results in evidence.items():
        if not results["is_step"]:
            return Verdict(False, "forward does not return a Step", "return Step(params, state, …)")
        for got in results["params"]:
            if got != results["wanted"]:
                hint = f"they came in as {results['wanted']}"
                return Verdict(False, f"in {dtype} the params returned are {got}", hint)
        if len(set(results["states"])) > 1:
            hint = "keep the structure, shapes and dtypes of the state from step to step"
            return Verdict(
                False, f"in {dtype} the state changes its structure, shapes or dtypes", hint
            )
    return Verdict(True, "params and state keep names, shapes and dtypes")


# --- extreme inputs ------------------------------------------------------------------------------

SCALES = (0.0, 1e-30, 1e-8, 1e8, 1e30)  # of gradients and loss


def _probe_extremes(rule: UpdateRule, seed: int) -> Evidence:
    precise = in_float64(rule).float()
    results = {}
    for scale in SCALES:
        params = small_params(seed, torch.float32)
        with torch.no_grad():
            step = _one_step(precise, params, precise.init(params), seed, scale)
        results[f"{scale:g}"] = _finite_parts(step)
    return results


def _finite_parts(step: Step) -> dict[str, bool]:
    parts = {"params": step.params, "state": step.state, "signals": step.signals}
    return {
        part: all(torch.isfinite(x).all().item() for x in tree_leaves(tree) if torch.is_tensor(x))
        for part, tree in parts.items()
    }


def _judge_extremes(evidence: Evidence) -> Verdict:
    bad = [
        f"{part} at gradients times {scale}"
        for scale, parts in evidence.items()
        for part, finite in parts.items()
        if not finite
    ]
    hint = "guard divisions and logarithms; squares of large numbers overflow"
    return Verdict(not bad, f"not finite: {', '.join(bad) or 'nothing'}", hint)


def _probe_not_a_number(rule: UpdateRule, seed: int) -> Evidence:
    """Give the rule a NaN loss with finite gradients. It may give a finite answer, or raise."""
    precise = in_float64(rule)
    params = small_params(seed)
    grads = {name: torch.ones_like(p) for name, p in params.items()}
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    with torch.no_grad():
        precise(params, grads, precise.init(params), torch.ones_like(nan))  # must work
    try:
        with torch.no_grad():
            step = precise(params, grads, precise.init(params), nan)
    except (ValueError, FloatingPointError) as error:
        return {"said": str(error)}
    return {"finite": _finite_parts(step)}


def _judge_not_a_number(evidence: Evidence) -> Verdict:
    if "said" in evidence:
        return Verdict(
            bool(evidence["said"]), f"refused: {evidence['said']}", "the error needs a message"
        )
    bad = [part for part, finite in evidence["finite"].items() if not finite]
    hint = "a NaN loss must not reach the weights: replace it before use, or raise a ValueError"
    return Verdict(not bad, f"after a NaN loss, not finite: {', '.join(bad) or 'nothing'}", hint)


# --- symmetries ----------------------------------------------------------------------------------


def _probe_renaming(rule: UpdateRule, seed: int) -> Evidence:
    """Rename all parameters, and reverse their order unless the rule is ``ordered``: the weights
    must stay the same."""
    precise = in_float64(rule)
    params = small_params(seed)
    plain = _three_moves(precise, params, small_loss, seed)
    order = list(params) if getattr(rule, "ordered", False) else list(reversed(params))
    names = {name: f"renamed.{i}" for i, name in enumerate(order)}
    back = {new: old for old, new in names.items()}
    renamed = {names[old]: params[old] for old in order}
    changed = _three_moves(
        precise, renamed, lambda p, b: small_loss({back[n]: w for n, w in p.items()}, b), seed
    )
    return {"plain": plain, "changed": {back[name]: w for name, w in changed.items()}}


def _probe_permutation(rule: UpdateRule, seed: int) -> Evidence:
    """Shuffle the coordinates of each weight, if the rule is ``coordinatewise``."""
    if not getattr(rule, "coordinatewise", False):
        return {}
    precise = in_float64(rule)
    params = small_params(seed)
    generator = torch.Generator().manual_seed(7)
    orders = {n: torch.randperm(p.numel(), generator=generator) for n, p in params.items()}

    def shuffle(p: Params, back: bool = False) -> Params:
        order = {n: torch.argsort(o) if back else o for n, o in orders.items()}
        return {n: w.reshape(-1)[order[n]].reshape(w.shape) for n, w in p.items()}

    plain = _three_moves(precise, params, small_loss, seed)
    changed = _three_moves(
        precise, shuffle(params), lambda p, b: small_loss(shuffle(p, back=True), b), seed
    )
    return {"plain": plain, "changed": shuffle(changed, back=True)}


def _three_moves(rule: UpdateRule, params: Params, loss_fn: Any, seed: int) -> Params:
    run = unroll(loss_fn, params, small_batches(STEPS, seed), rule, differentiable=False)
    return detached_copy(run.params)


def _judge_symmetry(evidence: Evidence) -> Verdict:
    if not evidence:
        return Verdict(True, "not claimed")
    plain, changed = evidence["plain"], evidence["changed"]
    apart = largest((plain[name] - changed[name]).abs().max().item() for name in plain)
    hint = "use the tensors alone, not their names, their order or the place of a coordinate"
    # another order of sums rounds differently, and a rule may compute in float32
    return Verdict(apart < 1e-6, f"the weights differ by {apart:.2g}", hint)


BASIC_CHECKS = [
    Check("the same every time", _probe_repeats, _judge_repeats),
    Check("changes nothing passed in", _probe_purity, _judge_purity),
    Check("keeps names, shapes and dtypes", _probe_shapes, _judge_shapes),
    Check("finite at zero, tiny and huge gradients", _probe_extremes, _judge_extremes),
    Check("a NaN loss is refused or survived", _probe_not_a_number, _judge_not_a_number),
    Check("blind to names and order", _probe_renaming, _judge_symmetry),
    Check("blind to permuted coordinates", _probe_permutation, _judge_symmetry),
]
