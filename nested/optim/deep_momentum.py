"""Deep momentum: a small net, trained on each gradient as it comes, says how the weights move.

State: a buffer for each weight, and a net for many.  It sees: gradients.  Clock: every batch.
Letters: N rows of gradients, C numbers in a row, H hidden units.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 50 (23 in the short version), with the objective
of eq. 34.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from nested.optim.base import INFINITY, MemoryOptimizer, as_rows, zeros_for

SHARED = ("coordinate", "shape")


class DeepMomentum(MemoryOptimizer):
    """``W <- W + m(k)`` for a memory m with weights theta, trained online (eq. 50):

        theta <- theta_0 + a (theta - theta_0) - n dL/dtheta,     L = sum <m(k), u>
        m(k) = b + A tanh(B k) / sqrt(N H)

    u is the gradient, and k, the key, the same with a root mean square of 1 in each tensor. The
    buffer b, one number a weight, starts at zero, and so does A (C, H); B (H, C) starts at random.
    L is eq. 34's, <m x, delta>, with k for x: the memory learns to answer a gradient with a move
    against it, and gradients that came with a similar key count more. (Eq. 50 read to the letter,
    with key and value both from u, would lose the gradient's sign.) Retention pulls to theta_0,
    which is the printed ``a m`` wherever the start is zero; B would be gone after some 1 / (1 - a)
    steps.

    With ``hidden=0`` the memory is linear and the identity, m(k) = b, which leaves plain momentum.
    ``shared="coordinate"``: one net for all weights of a group, C = 1: it learns a curve, how far
    to go for a gradient of this size. ``shared="shape"``: a net for each shape (R, C), which reads
    rows: all rows of all weights of that shape. N counts the rows of all that share a net; H is at
    most N, so that the state is within four times the parameters.

    Settings: ``lr`` (n), ``momentum`` (a) in [0, 1), ``hidden`` (H); ``generator`` draws the
    start. Raises ``ValueError`` for settings out of range.
    """

    ranges = {"lr": (0.0, INFINITY), "momentum": (0.0, 1.0), "hidden": (0, INFINITY)}
    shaped = ("momentum",)

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        hidden: int = 8,
        shared: str = "coordinate",
        *,
        generator: Generator | None = None,
    ) -> None:
        if not isinstance(generator, Generator | None):
            raise ValueError(f"generator is a torch.Generator or None, but got {generator!r}")
        # a number that draws the start: plain, so that it is saved with the groups
        seed = int(torch.randint(2**31, (), generator=generator or Generator().manual_seed(0)))
        settings = {"lr": lr, "momentum": momentum, "hidden": hidden, "shared": shared}
        super().__init__(params, settings | {"seed": seed})

    def check_group(self, group: dict[str, Any]) -> None:
        super().check_group(group)
        if not isinstance(group["hidden"], int):
            raise ValueError(f"hidden is a whole number of units, but got {group['hidden']!r}")
        if group["shared"] not in SHARED:
            raise ValueError(f"shared is one of {SHARED}, but got {group['shared']!r}")

    def begin(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = zeros_for(p)
        present = set(params)
        for sharing, width in _sharings(group):
            if group["hidden"] and not present.isdisjoint(sharing):
                self._net(group, sharing, width)

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, momentum, present = group["lr"], group["momentum"], set(params)
        for sharing, width in _sharings(group):
            members = [p for p in sharing if p in present]
            if not members:
                continue
            moves = []
            for p in members:
                # b <- a b - n u
                moves.append(self.state[p]["momentum"].mul_(momentum).sub_(p.grad, alpha=lr))
            if group["hidden"]:
                errors = [p.grad.reshape(-1, width) for p in members]
                keys = [_of_size_one(u) for u in errors]
                net = self._net(group, sharing, width)
                answers = _learn_and_answer(net, torch.cat(keys), torch.cat(errors), lr, momentum)
                parts = answers.split([len(u) for u in errors])
                moves = [b + part.reshape(b.shape) for b, part in zip(moves, parts, strict=True)]
            for p, move in zip(members, moves, strict=True):
                p.add_(move)

    def _net(self, group: dict[str, Any], sharing: list[Tensor], width: int) -> dict[str, Tensor]:
        """The net of parameters that share one: it is kept with the first of them."""
        state = self.state[sharing[0]]
        if "A" not in state:
            rows = sum(p.numel() for p in sharing) // width
            hidden = min(group["hidden"], rows)
            drawn = torch.randn(hidden, width, generator=Generator().manual_seed(group["seed"]))
            start = (drawn / math.sqrt(width)).to(sharing[0])
            state |= {"A": start.new_zeros(width, hidden), "B": start.clone(), "B_start": start}
            state["rows"] = rows
        return state


def _learn_and_answer(
    net: dict[str, Tensor], keys: Tensor, errors: Tensor, lr: float, momentum: float
) -> Tensor:
    """Train the net on (keys, errors), both (N, C), and return what it then says, (N, C)."""
    scale = 1 / math.sqrt(net["rows"] * len(net["B"]))
    hidden = torch.tanh(keys @ net["B"].T)  # (N, H)
    d_outer = errors.T @ hidden * scale  # (C, H)
    d_inner = ((errors @ net["A"]) * (1 - hidden * hidden)).T @ keys * scale  # (H, C)
    # theta <- theta_0 + a (theta - theta_0) - n dL/dtheta
    net["A"].mul_(momentum).sub_(d_outer, alpha=lr)
    net["B"].lerp_(net["B_start"], 1 - momentum).sub_(d_inner, alpha=lr)
    return torch.tanh(keys @ net["B"].T) @ net["A"].T * scale


def _sharings(group: dict[str, Any]) -> Iterator[tuple[list[Tensor], int]]:
    """The parameters that share a net, with the width C of what it reads."""
    found: dict[Any, list[Tensor]] = {}
    for p in group["params"]:
        if p.numel():
            shape = p.shape if group["shared"] == "shape" else None
            found.setdefault((shape, p.dtype, p.device), []).append(p)
    for (shape, *_), sharing in found.items():
        yield sharing, 1 if shape is None else as_rows(sharing[0]).shape[1]


def _of_size_one(x: Tensor) -> Tensor:
    """x over its root mean square; zero stays zero, and no square overflows or vanishes."""
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.abs().amax().clamp(min=tiny)
    return x / x.square().mean().sqrt().clamp(min=tiny)
