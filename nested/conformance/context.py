"""Check a feature of level 4's context against its contract.

A feature is a function ``feature(*, loss, step, params, grads, buffer) -> Tensor ()``. ``loss`` and
``step`` are (), the others are {name: (...)}. A rule calls each function in its ``context`` at
every inner step, after the gradient and before the update. The built-in features pass these checks
too. Source: ``nested.levels.rule``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves

from nested.conformance.check import Check, Evidence, Result, Verdict, require, run_check
from nested.conformance.small_problem import detached_copy, small_params
from nested.levels.meta_optimizer import MetaOptimizer
from nested.tasks.digits import Digits
from nested.tasks.stack import stack_batch, stack_init
from nested.unroll.over_tasks import pick_task, stack_tasks

Feature = Callable[..., Tensor]
SCALES = (0.0, 1e-30, 1e-8, 1e8, 1e30)  # of the gradients and the loss
TASKS, STEPS = 8, 20  # of the runs in which a feature is measured
LARGEST = 20.0  # a feature of order one stays below this


def check_context(feature: Feature, seed: int = 0) -> list[Result]:
    """Check that ``feature`` can be part of a rule's context, on data drawn from ``seed``.

    Returns the results of ``CONTEXT_CHECKS``. Raises ``ConformanceError``, with one line for each
    check that failed.
    """
    results = [run_check(check, feature, seed) for check in CONTEXT_CHECKS]
    require(results, getattr(feature, "__name__", "the feature"))
    return results


def seen_in_a_run(seed: int) -> list[dict[str, Any]]:
    """Record what a rule sees at each of K steps on T tasks of digits.

    Returns K dicts with loss and step (T,), and with params, grads and buffer {name: (T, ...)}.
    """
    family, generator = Digits(), Generator().manual_seed(seed)
    tasks, rule = [family.sample(generator) for _ in range(TASKS)], MetaOptimizer()
    params = stack_init(tasks, generator)
    state, inputs = torch.vmap(rule.init)(params), []
    for _ in range(STEPS):
        points = {name: p.detach().requires_grad_() for name, p in params.items()}
        losses = torch.vmap(family.loss)(points, stack_batch(tasks, generator))
        grads = torch.autograd.grad(losses.sum(), list(points.values()))
        grads, losses = dict(zip(points, grads, strict=True)), losses.detach()
        at = {"loss": losses, "step": state["step"], "params": params, "grads": grads}
        inputs.append(detached_copy({**at, "buffer": state["momentum"]}))
        with torch.no_grad():
            params, state, _ = torch.vmap(rule.forward)(params, grads, state, losses)
    return inputs


def values_in_a_run(feature: Feature, seed: int) -> Tensor:
    """Compute the feature in the runs of ``seen_in_a_run``: its values (T, K). Exceptions of the
    feature pass through."""
    runs = seen_in_a_run(seed)
    with torch.no_grad():
        return torch.stack([_over_tasks(feature, inputs) for inputs in runs], dim=1)


def _over_tasks(feature: Feature, inputs: dict[str, Any]) -> Tensor:
    return torch.vmap(lambda task_inputs: feature(**task_inputs))(inputs)


def _small(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    params, grads, buffer = (small_params(seed + i, dtype) for i in range(3))
    grads = {name: scale * g for name, g in grads.items()}
    loss = torch.tensor(2.0 * scale, dtype=dtype)
    step = torch.tensor(3.0, dtype=dtype)
    return {"loss": loss, "step": step, "params": params, "grads": grads, "buffer": buffer}


def _probe_form(feature: Feature, seed: int) -> Evidence:
    forms = {}
    for dtype in (torch.float32, torch.float64):
        value = feature(**_small(seed, dtype=dtype))
        is_float = torch.is_tensor(value) and value.is_floating_point()
        forms[str(dtype)] = list(value.shape) if is_float else "no tensor of floats"
    return forms


def _judge_form(evidence: Evidence) -> Verdict:
    wrong = [f"{shape} for {dtype}" for dtype, shape in evidence.items() if shape != []]
    hint = "return a scalar tensor, made from the inputs"
    return Verdict(not wrong, f"not a scalar: {', '.join(wrong) or 'never'}", hint)


def _probe_repeats(feature: Feature, seed: int) -> Evidence:
    inputs = _small(seed)
    before, values = detached_copy(inputs), []
    for other in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(other)  # global randomness must not matter
            values.append(feature(**inputs).detach().clone())
    pairs = zip(tree_leaves(before), tree_leaves(inputs), strict=True)
    return {"values": values, "changed": not all(torch.equal(a, b) for a, b in pairs)}


def _judge_repeats(evidence: Evidence) -> Verdict:
    first, second = evidence["values"]
    if evidence["changed"]:
        return Verdict(
            False, "it changes what it sees", "make new tensors instead of writing into old ones"
        )
    hint = "does it draw random numbers, or keep something from call to call?"
    return Verdict(torch.equal(first, second), f"called twice: {first:.6g}, {second:.6g}", hint)


def _probe_extremes(feature: Feature, seed: int) -> Evidence:
    cases = {f"gradients times {scale:g}": _small(seed, scale) for scale in SCALES}
    zero = _small(seed)
    cases["the first step"] = zero | {
        "step": torch.zeros(()),
        "buffer": {name: torch.zeros_like(v) for name, v in zero["buffer"].items()},
    }
    cases["a loss that is not a number"] = _small(seed) | {"loss": torch.tensor(torch.nan)}
    return {case: feature(**inputs).isfinite().all().item() for case, inputs in cases.items()}


def _judge_extremes(evidence: Evidence) -> Verdict:
    wrong = [case for case, finite in evidence.items() if not finite]
    hint = "guard divisions and logarithms; squares of large numbers overflow"
    return Verdict(not wrong, f"not finite at {', '.join(wrong) or 'nothing'}", hint)


def _probe_names(feature: Feature, seed: int) -> Evidence:
    inputs, turned = _small(seed, dtype=torch.float64), _small(seed, dtype=torch.float64)
    for part in ("params", "grads", "buffer"):
        names = list(turned[part])
        turned[part] = {f"other.{name}": turned[part][name] for name in reversed(names)}
    return {"values": [feature(**inputs).detach(), feature(**turned).detach()]}


def _judge_names(evidence: Evidence) -> Verdict:
    first, second = (value.item() for value in evidence["values"])
    measured = f"{first:.6g} and, renamed and in reversed order, {second:.6g}"
    near = 1e-6 * max(1.0, abs(first))  # another order of sums rounds differently
    return Verdict(abs(first - second) < near, measured, "use the values alone")


def _probe_tasks(feature: Feature, seed: int) -> Evidence:
    alone = [_small(seed + t) for t in range(3)]
    together = _over_tasks(feature, stack_tasks(alone))
    one_by_one = [feature(**pick_task(stack_tasks(alone), t)).detach() for t in range(3)]
    return {"together": together.detach(), "alone": torch.stack(one_by_one)}


def _judge_tasks(evidence: Evidence) -> Verdict:
    apart = (evidence["together"] - evidence["alone"]).abs().max().item()
    measured = f"three tasks together and alone differ by {apart:.1g}"
    return Verdict(apart < 1e-4, measured, "no branches on values, no .item(), no float()")


def _probe_spread(feature: Feature, seed: int) -> Evidence:
    return {"values": values_in_a_run(feature, seed)}


def _judge_spread(evidence: Evidence) -> Verdict:
    values = evidence["values"]
    largest, spread = values.abs().max().item(), values.std().item()
    measured = f"on digits up to {largest:.2g}, with a standard deviation of {spread:.2g}"
    if not spread > 1e-3:
        return Verdict(False, measured, "it hardly changes, so a rule learns nothing from it")
    return Verdict(largest < LARGEST, measured, "take a logarithm, or divide by a typical size")


CONTEXT_CHECKS = [
    Check("a scalar, in any dtype", _probe_form, _judge_form),
    Check("the same every time, and pure", _probe_repeats, _judge_repeats),
    Check("finite at any input", _probe_extremes, _judge_extremes),
    Check("blind to names and order", _probe_names, _judge_names),
    Check("tasks in a batch do not mix", _probe_tasks, _judge_tasks),
    Check("it moves, and is of order one", _probe_spread, _judge_spread),
]
