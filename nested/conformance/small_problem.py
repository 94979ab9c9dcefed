"""A small smooth inner problem with a scalar, a vector, a matrix and an unused weight.

Letters: B rows. Source: ours; smooth, so that finite differences can be trusted.
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
    """Mean squared error, (), of ``(2 + scalar) tanh(matrix x + vector)`` on a batch (x (B, 2),
    y (B, 3)); the weight "unused" has no part in it. Raises ``KeyError`` for other weights."""
    inputs, targets = batch
    hidden = torch.tanh(inputs @ params["matrix"].T + params["vector"])
    return (((2 + params["scalar"]) * hidden - targets) ** 2).mean()


def small_params(seed: int, dtype: torch.dtype = torch.float64) -> Params:
    """Weights {name: (...)} with the names and shapes of ``SHAPES``."""
    generator = Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}


def small_batches(steps: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    """K = ``steps`` batches (x (B, 2), y (B, 3)) of random data."""
    generator = Generator().manual_seed(1000 + seed)
    return [
        (
            torch.randn(ROWS, 2, generator=generator).to(dtype),
            torch.randn(ROWS, 3, generator=generator).to(dtype),
        )
        for _ in range(steps)
    ]


def in_float64(rule: UpdateRule) -> UpdateRule:
    """A copy of the rule, in float64, to be treated as one likes."""
    return copy.deepcopy(rule).double()


def nudged(rule: UpdateRule, seed: int) -> UpdateRule:
    """A copy of the rule in float64, its parameters moved a little: a head that starts at zero
    hides what it is fed, without being wrong."""
    rule, generator = in_float64(rule), Generator().manual_seed(seed)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(NUDGE * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return rule


def used_state(rule: UpdateRule, params: Params, seed: int) -> tuple[Params, State]:
    """Weights {name: (...)} and state after one step, detached: past the zeros that states start
    from, for "unused" too, which gets a random gradient. Raises whatever the rule raises."""
    (batch,) = small_batches(1, seed + 500)
    points = {name: p.detach().requires_grad_() for name, p in params.items()}
    loss = small_loss(points, batch)
    grads = torch.autograd.grad(loss, list(points.values()), materialize_grads=True)
    given = {**dict(zip(points, grads, strict=True)), "unused": small_params(seed + 1)["unused"]}
    with torch.no_grad():
        step = rule(params, given, rule.init(params), loss.detach())
    return cut((step.params, step.state))


def cut(tree: Any) -> Any:
    """Copies of all tensors (...) of a nested structure, without their graphs."""
    return tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), tree)
