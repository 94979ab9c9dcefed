"""A small inner problem with a scalar, a vector, a matrix and an unused weight.

It is smooth, so finite differences are reliable. Letters: B rows.
Source: ``nested.conformance.update_rule``, whose checks run on it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map_only

from nested.levels.forward import Batch, Params, State
from nested.levels.rule import UpdateRule

SHAPES = {"matrix": (3, 2), "vector": (3,), "scalar": (), "unused": (2,)}
ROWS = 4
NUDGE = 0.03


def small_loss(params: Params, batch: Batch) -> Tensor:
    """Compute the mean squared error, (), of ``(2 + scalar) tanh(matrix x + vector)``.

    A batch is (x (B, 2), y (B, 3)). The loss does not depend on the weight "unused". Raises
    ``KeyError`` for other weights."""
    inputs, targets = batch
    hidden = torch.tanh(inputs @ params["matrix"].T + params["vector"])
    return (((2 + params["scalar"]) * hidden - targets) ** 2).mean()


def small_params(seed: int, dtype: torch.dtype = torch.float64) -> Params:
    """Draw weights {name: (...)} with the names and shapes of ``SHAPES``."""
    generator = Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}


def small_batches(steps: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    """Draw K = ``steps`` random batches (x (B, 2), y (B, 3))."""
    generator = Generator().manual_seed(1000 + seed)
    return [
        (
            torch.randn(ROWS, 2, generator=generator).to(dtype),
            torch.randn(ROWS, 3, generator=generator).to(dtype),
        )
        for _ in range(steps)
    ]


def in_float64(rule: UpdateRule) -> UpdateRule:
    """Copy the rule in float64."""
    return copy.deepcopy(rule).double()


def nudged(rule: UpdateRule, seed: int) -> UpdateRule:
    """Copy the rule in float64, with small random changes to its parameters.

    A head that starts at zero passes no gradient to its inputs, and yet it is right."""
    rule, generator = in_float64(rule), Generator().manual_seed(seed)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(NUDGE * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return rule


def used_state(rule: UpdateRule, params: Params, seed: int) -> tuple[Params, State]:
    """Take one step, and return the detached weights {name: (...)} and state.

    The state is then no longer zero, not even for "unused", which gets a random gradient.
    Exceptions of the rule pass through."""
    (batch,) = small_batches(1, seed + 500)
    points = {name: p.detach().requires_grad_() for name, p in params.items()}
    loss = small_loss(points, batch)
    grads = torch.autograd.grad(loss, list(points.values()), materialize_grads=True)
    given = {**dict(zip(points, grads, strict=True)), "unused": small_params(seed + 1)["unused"]}
    with torch.no_grad():
        step = rule(params, given, rule.init(params), loss.detach())
    return detached_copy((step.params, step.state))


def detached_copy(tree: Any) -> Any:
    """Copy all tensors (...) of a nested structure, without their graphs."""
    return tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), tree)
