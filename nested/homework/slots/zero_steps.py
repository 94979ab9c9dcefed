"""Check the first two tasks of hw_zero: a gradient, and a step of momentum SGD.

Source: ``torch.optim.SGD`` for the values, central differences for the derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.small_problem import detached_copy, small_batches, small_loss, small_params
from nested.homework.slots.zero import Zero
from nested.levels.forward import Params

CLOSE, DELTA = 1e-7, 1e-5


def weights_of(seed: int) -> Params:
    """Draw the weights {name: (...)} of the small problem, without the unused one."""
    return {name: w for name, w in small_params(seed).items() if name != "unused"}


def flat(tree: Any) -> Tensor:
    """Put all numbers of a nested structure of tensors (...) in a row, (D,)."""
    return torch.cat([x.flatten() for x in tree_leaves(tree)])


def _slopes(function: Callable[[Any], Any], at: Any, seed: int) -> Evidence:
    """Compute the slope of a random mix of all results along a random direction, by autograd and by
    a central difference."""
    leaves, spec = tree_flatten(at)
    generator = Generator().manual_seed(seed)
    along = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in leaves]
    mix = torch.randn(1000, generator=generator, dtype=torch.float64)

    def mixed(t: Tensor) -> Tensor:
        after = [x + t * d for x, d in zip(leaves, along)]
        out = flat(function(tree_unflatten(after, spec)))
        return out @ mix[: len(out)]

    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mixed(zero), zero, materialize_grads=True, allow_unused=True)
    with torch.no_grad():
        ends = [mixed(zero + sign * DELTA) for sign in (1, -1)]
    return {"autograd": slope.item(), "difference": ((ends[0] - ends[1]) / (2 * DELTA)).item()}


def _judge_slopes(hint: str) -> Callable[[Evidence], Verdict]:
    def judge(evidence: Evidence) -> Verdict:
        ours, truth = evidence["autograd"], evidence["difference"]
        measured = f"a slope of {ours:.6g} by autograd, {truth:.6g} by finite difference"
        return Verdict(abs(ours - truth) <= 1e-5 * (1 + abs(truth)), measured, hint)

    return judge


def _probe_gradient(zero: Zero, seed: int) -> Evidence:
    params, (batch,) = weights_of(seed), small_batches(1, seed)
    loss, grads = zero.gradient(params, batch)
    weights = {name: w.clone().requires_grad_() for name, w in params.items()}
    expected = small_loss(weights, batch)
    expected.backward()
    theirs = torch.stack([expected.detach(), *flat([w.grad for w in weights.values()])])
    return {
        "ours": detached_copy(torch.cat([loss.reshape(1), flat([grads[n] for n in params])])),
        "theirs": theirs,
    }


def _probe_again(zero: Zero, seed: int) -> Evidence:
    (batch,) = small_batches(1, seed)
    return _slopes(lambda params: zero.gradient(params, batch)[1], weights_of(seed), seed)


def _judge_near(hint: str) -> Callable[[Evidence], Verdict]:
    def judge(evidence: Evidence) -> Verdict:
        ours, theirs = evidence["ours"], evidence["theirs"]
        apart = ((ours - theirs).abs() / (1 + theirs.abs())).max().item()
        return Verdict(apart < CLOSE, f"an error of {apart:.2g}", hint)

    return judge


def _a_step(seed: int) -> list:
    generator = Generator().manual_seed(seed)
    lr, momentum = torch.rand(2, generator=generator, dtype=torch.float64)
    return [*[weights_of(seed + i) for i in range(3)], 0.1 + lr, 0.9 * momentum]


def _probe_step(zero: Zero, seed: int) -> Evidence:
    params, buffer, grads, lr, momentum = _a_step(seed)
    with torch.no_grad():
        after, new_buffer = zero.step(params, buffer, grads, lr, momentum)
    weights = {name: w.clone().requires_grad_() for name, w in params.items()}
    sgd = torch.optim.SGD(weights.values(), lr=lr.item(), momentum=momentum.item())
    for name, w in weights.items():
        w.grad = grads[name].clone()
        sgd.state[w]["momentum_buffer"] = buffer[name].clone()
    sgd.step()
    buffers = [sgd.state[w]["momentum_buffer"] for w in weights.values()]
    ours = flat([[after[n] for n in params], [new_buffer[n] for n in params]])
    return {"ours": ours, "theirs": flat([detached_copy(list(weights.values())), buffers])}


def _probe_step_purity(zero: Zero, seed: int) -> Evidence:
    parts = _a_step(seed)
    before = detached_copy(parts)
    with torch.no_grad():
        zero.step(*parts)
    names = ("params", "buffer", "grads", "lr", "momentum")
    return {name: torch.equal(flat(a), flat(b)) for name, a, b in zip(names, before, parts)}


def _judge_step_purity(evidence: Evidence) -> Verdict:
    changed = ", ".join(name for name, same in evidence.items() if not same)
    hint = "make new tensors (w - lr * v) and new dicts instead of writing into old ones (w -= ...)"
    return Verdict(not changed, f"changed in place: {changed or 'nothing'}", hint)


TASKS_1_AND_2 = [
    Check(
        "1 gradient: it is PyTorch's",
        _probe_gradient,
        _judge_near("return the loss, then {name: gradient} in the order of params"),
    ),
    Check(
        "1 gradient: it can be differentiated again",
        _probe_again,
        _judge_slopes("does the gradient keep its graph (create_graph=True, no detach)?"),
    ),
    Check(
        "2 step: it moves as torch.optim.SGD does",
        _probe_step,
        _judge_near("v <- mu v + g first; then w <- w - lr v with the new v; return (w, v)"),
    ),
    Check(
        "2 step: its derivatives are right",
        lambda zero, seed: _slopes(lambda parts: zero.step(*parts), _a_step(seed), seed),
        _judge_slopes("is one of the five arguments detached, or made a float?"),
    ),
    Check("2 step: nothing passed in is changed", _probe_step_purity, _judge_step_purity),
]
