"""Check a student's unroll: K differentiable steps of momentum SGD.

Letters: K inner steps. Source: ``torch.optim.SGD`` for the values, and central differences of the
student's values for the hypergradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Generator, Tensor

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.small_problem import detached_copy, small_batches, small_loss, small_params
from nested.homework.remote import call
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served
from nested.levels.forward import Batch, LossFn, Params

STEPS = 8  # K
DELTA = 1e-5


def one_weight_loss(params: Params, batch: Batch) -> Tensor:
    """Compute a loss, (), of one weight {"w": ()} for a target, (). Its unroll can be drawn."""
    return torch.cosh(params["w"] - batch)


LOSSES: dict[str, LossFn] = {"small": small_loss, "one weight": one_weight_loss}


def serve_unroll(name: str, losses: dict[str, LossFn] = LOSSES) -> Callable[[ModuleType], Served]:
    """Serve the function called ``name`` of the student's file, with a loss chosen by its name.

    It returns params {name: (...)} and losses (K,). Raises ``AttributeError`` if the file has no
    such function."""

    def serve(module: ModuleType) -> Served:
        unroll = getattr(module, name)

        def run(params: Params, batches: list[Batch], lr: Tensor, momentum: Tensor, loss: str):
            return unroll(losses[loss], params, batches, lr, momentum)

        return {"run": run}

    return serve


@dataclass(frozen=True)
class RemoteUnroll:
    """A proxy of the student's unroll: a function of params, batches, lr and momentum.

    Takes params {name: (...)}, K batches, and lr and momentum, () each. Returns the last params and
    the losses (K,). Raises ``TypeError`` or ``ValueError`` for a result of another form."""

    sandbox: Sandbox

    def __call__(
        self,
        params: Params,
        batches: list[Batch],
        lr: Tensor,
        momentum: Tensor,
        loss: str = "small",
    ) -> tuple[Params, Tensor]:
        out = call(self.sandbox, "run", params, batches, lr, momentum, static=(loss,))
        return _checked(out, params, batches)


def _checked(out: Any, params: Params, batches: list[Batch]) -> tuple[Params, Tensor]:
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], dict)):
        raise TypeError("return (params, losses): a dict and a tensor of K losses")
    if out[0].keys() != params.keys():
        raise ValueError(
            f"params have names {list(out[0])} at the end, but {list(params)} at the start"
        )
    for name, start in params.items():
        if out[0][name].shape != start.shape or out[0][name].dtype != start.dtype:
            raise ValueError(f"{name!r} has another shape or dtype at the end")
    if not torch.is_tensor(out[1]) or out[1].shape != (len(batches),):
        shape = tuple(out[1].shape) if torch.is_tensor(out[1]) else type(out[1]).__name__
        raise ValueError(f"losses have shape {shape}, but there are {len(batches)} steps")
    return out


def _problem(seed: int) -> tuple[Params, list[Batch], Tensor, Tensor]:
    params = {name: p for name, p in small_params(seed).items() if name != "unused"}
    generator = Generator().manual_seed(seed)
    shares = torch.rand(2, generator=generator, dtype=torch.float64)
    return params, small_batches(STEPS, seed), 0.05 + 0.1 * shares[0], 0.5 + 0.4 * shares[1]


# --- the values ----------------------------------------------------------------------------------


def _probe_values(unroll: RemoteUnroll, seed: int) -> Evidence:
    params, batches, lr, momentum = _problem(seed)
    with torch.no_grad():
        after, losses = unroll(params, batches, lr, momentum)
    weights = {name: p.clone().requires_grad_() for name, p in params.items()}
    sgd = torch.optim.SGD(weights.values(), lr=lr.item(), momentum=momentum.item())
    expected = []
    for batch in batches:
        sgd.zero_grad()
        loss = small_loss(weights, batch)
        loss.backward()
        sgd.step()
        expected.append(loss.detach())
    return {
        "losses": [detached_copy(losses), torch.stack(expected)],
        "params": [
            torch.cat([p[name].detach().flatten() for name in params]) for p in (after, weights)
        ],
        "start": torch.cat([p.flatten() for p in params.values()]),
    }


def _judge_values(evidence: Evidence) -> Verdict:
    losses, expected = evidence["losses"]
    right = (losses - expected).abs() <= 1e-9 * (1 + expected.abs())  # False for NaN
    wrong = (~right).nonzero().flatten().tolist()
    if wrong:
        step = wrong[0]
        measured = (
            f"losses[{step}] is {losses[step]:.6g}, with torch.optim.SGD {expected[step]:.6g}"
        )
        hint = "losses[k] is batch k's loss before update k; v <- mu v + g, w <- w - lr v"
        return Verdict(False, measured, hint)
    params, theirs = evidence["params"]
    apart = (params - theirs).abs().max().item()
    if torch.equal(params, evidence["start"]):
        return Verdict(False, "the returned weights are the first ones", "return the last weights")
    return Verdict(
        apart < 1e-9, f"the last weights differ by {apart:.1g}", "is there one update too few?"
    )


def _probe_purity(unroll: RemoteUnroll, seed: int) -> Evidence:
    parts = _problem(seed)
    before = detached_copy(parts)
    with torch.no_grad():
        unroll(*parts)
    names = ("params", "batches", "lr", "momentum")
    return {
        name: [old, detached_copy(new)] for name, old, new in zip(names, before, parts, strict=True)
    }


def _judge_purity(evidence: Evidence) -> Verdict:
    leaves = torch.utils._pytree.tree_leaves
    changed = [
        name
        for name, (old, new) in evidence.items()
        if not all(map(torch.equal, leaves(old), leaves(new)))
    ]
    hint = "make new tensors (w - lr * v) instead of writing into old ones (w -= lr * v)"
    return Verdict(not changed, f"changed in place: {', '.join(changed) or 'nothing'}", hint)


# --- the hypergradients --------------------------------------------------------------------------


def _probe_slopes(setting: str) -> Callable[[RemoteUnroll, int], Evidence]:
    """Return a probe of the slopes (K + 1,) along ``setting``: of the losses, and of a mix of the
    last weights. It computes them by autograd and by central differences."""

    def probe(unroll: RemoteUnroll, seed: int) -> Evidence:
        params, batches, lr, momentum = _problem(seed)
        generator = Generator().manual_seed(seed)
        along = {
            "lr": lambda t: (params, lr + t, momentum),
            "momentum": lambda t: (params, lr, momentum + t),
            "weights": lambda t: ({n: p + t * d[n] for n, p in params.items()}, lr, momentum),
        }[setting]
        d = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in params.items()}
        mix = {
            n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in params.items()
        }

        def outcomes(t: Tensor) -> Tensor:
            start, eta, mu = along(t)
            after, losses = unroll(start, batches, eta, mu)
            return torch.cat([losses, sum((after[n] * mix[n]).sum() for n in mix).reshape(1)])

        zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        out = outcomes(zero)
        slopes = (
            [
                torch.autograd.grad(o, zero, retain_graph=True, materialize_grads=True)[0]
                for o in out
            ]
            if out.requires_grad
            else [torch.zeros(())] * len(out)
        )
        with torch.no_grad():
            ends = [outcomes(zero.detach() + sign * DELTA) for sign in (1, -1)]
        by_difference = (ends[0] - ends[1]) / (2 * DELTA)
        return {"autograd": torch.stack(slopes).detach(), "difference": by_difference}

    return probe


def _judge_slopes(setting: str) -> Callable[[Evidence], Verdict]:
    def judge(evidence: Evidence) -> Verdict:
        ours, truth = evidence["autograd"], evidence["difference"]
        scale = truth.abs().max().clamp(min=1e-3)
        right = (ours - truth).abs() <= 1e-5 * scale  # False for NaN
        wrong = (~right).nonzero().flatten().tolist()
        if not truth.abs().max() > 1e-6:
            return Verdict(False, f"no result depends on the {setting}", "is it used?")
        if not wrong:
            return Verdict(True, f"right for all {len(ours) - 1} losses and for the last weights")
        step = wrong[0]
        name = f"losses[{step}]" if step < len(ours) - 1 else "the last weights"
        measured = (
            f"d {name} / d {setting}: {ours[step]:.5g} by autograd,"
            f" {truth[step]:.5g} by finite difference"
        )
        if ours.abs().max() == 0:
            hint = (
                f"autograd finds no dependence on the {setting}: is it detached, or made a float?"
            )
        else:
            hint = (
                f"right until update {step - 1}, wrong from update {step} on: is the buffer, the"
                " gradient (create_graph=True) or the weight detached before that?"
            )
        return Verdict(False, measured, hint)

    return judge


def _slope_check(name: str, setting: str) -> Check:
    return Check(name, _probe_slopes(setting), _judge_slopes(setting))


UNROLL_CHECKS = [
    Check("it trains as torch.optim.SGD does", _probe_values, _judge_values),
    Check("nothing passed in is changed", _probe_purity, _judge_purity),
    _slope_check("the hypergradient of the learning rate", "lr"),
    _slope_check("the hypergradient of the momentum", "momentum"),
    _slope_check("the hypergradient of the initial weights", "weights"),
]
