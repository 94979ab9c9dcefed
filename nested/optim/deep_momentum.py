"""Deep momentum: a small net, trained online on the gradients, computes the update.

State: a buffer for each weight, a net for many weights.  It sees: gradients.  Clock: every batch.
Letters: N rows of gradients, C numbers in a row, H hidden units.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 50 (23 in the short version), with the objective
of eq. 34.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from nested.levels.context import wide
from nested.optim.base import INFINITY, MemoryOptimizer, as_rows, zeros_for
from nested.optim.sharded import cut_as, whole

Pairs = Iterable[tuple[Tensor, Tensor]]  # of errors and keys
Pieces = Iterable[Tensor]
NUMBERS = 2**18  # in the largest tensor of one part, on a CPU
SMALL = 2**19  # up to this many numbers in the largest tensor, all rows are one part
SHARED = ("coordinate", "shape")


class DeepMomentum(MemoryOptimizer):
    """Update ``W <- W + m(k)`` by a memory m with weights theta, trained online (eq. 50):

        theta <- theta_0 + a (theta - theta_0) - n dL/dtheta,     L = sum <m(k), u>
        m(k) = b + A tanh(B k) / sqrt(N H)

    u is the gradient. The key k is the gradient of a tensor, scaled to a root mean square of 1. The
    buffer b, one number per weight, and A (C, H) start at zero; B (H, C) starts at random. L is
    eq. 34's <m x, delta> with k for x. So the memory learns to answer a gradient with a step
    against it, and earlier gradients with a similar key count more.

    Two choices differ from the print. Eq. 50 with both key and value from u would lose the sign of
    the gradient. Retention pulls to theta_0, which equals the printed ``a m`` for weights that
    start at zero; with ``a m``, B would vanish within about 1 / (1 - a) steps.

    ``hidden=0`` gives m(k) = b, plain momentum. ``shared="coordinate"``: one net for all weights of
    a group, C = 1, learns one step size for each size of a gradient. ``shared="shape"``: one net
    for each shape (R, C) reads all rows of all weights of that shape. N is the number of rows that
    share a net. H is at most N, so that the state is within four times the parameters.

    Settings: ``lr`` (n), ``momentum`` (a) in [0, 1), ``hidden`` (H). ``generator`` draws the
    initial B. Raises ``ValueError`` for settings out of range.
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
        # a plain number, so that it is saved with the groups
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
        for p in params:
            # b <- a b - n u
            self.state[p]["momentum"].mul_(momentum).sub_(p.grad, alpha=lr)
        for sharing, width in _sharings(group):
            members = [p for p in sharing if p in present]
            if members and group["hidden"]:
                net = self._net(group, sharing, width)
                is_small = sum(p.numel() for p in members) // width * max(net["A"].shape) <= SMALL
                answers = (_at_once if is_small else _in_parts)(net, members, lr, momentum)
                for p, answer in zip(members, answers, strict=True):
                    p.add_(self.state[p]["momentum"] + cut_as(answer.view(p.shape), p))
            else:
                for p in members:
                    p.add_(self.state[p]["momentum"])

    def _net(self, group: dict[str, Any], sharing: list[Tensor], width: int) -> dict[str, Tensor]:
        """Return the net that these parameters share. The state of the first one holds it."""
        state = self.state[sharing[0]]
        if "A" not in state:
            rows = sum(p.numel() for p in sharing) // width
            hidden = min(group["hidden"], rows)
            generator = Generator().manual_seed(group["seed"])
            drawn = torch.randn(hidden, width, generator=generator, dtype=torch.float32)
            like = sharing[0]
            start = (drawn / math.sqrt(width)).to(device=like.device, dtype=like.dtype)
            state |= {"A": start.new_zeros(width, hidden), "B": start.clone(), "B_start": start}
            state["rows"] = rows
        return state


def _at_once(net: dict[str, Tensor], params: list[Tensor], lr: float, momentum: float) -> Pieces:
    """Train the net on the gradients of ``params``, and return its answers, (n, C) each."""
    errors = [wide(whole(p.grad)).reshape(-1, len(net["A"])) for p in params]
    keys = torch.cat([_of_size_one(u) for u in errors])
    _learn(net, [(torch.cat(errors), keys)], lr, momentum)
    return _answer(net, keys).split([len(u) for u in errors])


def _in_parts(net: dict[str, Tensor], params: list[Tensor], lr: float, momentum: float) -> Pieces:
    """Do as ``_at_once``, but a few rows at a time. The hidden units of all rows would take many
    times the memory of the weights, and not fit a cache."""
    numbers = NUMBERS if params[0].device.type == "cpu" else 16 * NUMBERS
    count = max(1, numbers // max(net["A"].shape))
    sizes = {p: _size(whole(p.grad)) for p in params}

    def parts(p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in whole(p.grad).reshape(-1, len(net["A"])).split(count):
            errors = wide(rows)
            yield errors, errors / sizes[p][0] / sizes[p][1]

    _learn(net, (part for p in params for part in parts(p)), lr, momentum)
    for p in params:
        answer = torch.empty(p.shape, dtype=p.dtype, device=p.device).view(-1, len(net["A"]))
        for place, (_, keys) in zip(answer.split(count), parts(p), strict=True):
            place.copy_(_answer(net, keys))
        yield answer


def _learn(net: dict[str, Tensor], pairs: Pairs, lr: float, momentum: float) -> None:
    """Train the net, in place, on pairs of errors and keys, (n, C) each."""
    scale = 1 / math.sqrt(net["rows"] * len(net["B"]))
    outer, inner = wide(net["A"]), wide(net["B"])
    d_outer, d_inner = torch.zeros_like(outer), torch.zeros_like(inner)
    for errors, keys in pairs:
        hidden = _hidden(inner, keys)  # (H, n)
        d_outer += (hidden @ errors).T
        slopes = outer.T @ errors.T
        d_inner += slopes.addcmul_(slopes, hidden.square_(), value=-1) @ keys
    # theta <- theta_0 + a (theta - theta_0) - n dL/dtheta
    net["A"].mul_(momentum).sub_(d_outer, alpha=lr * scale)
    net["B"].lerp_(net["B_start"], 1 - momentum).sub_(d_inner, alpha=lr * scale)


def _answer(net: dict[str, Tensor], keys: Tensor) -> Tensor:
    """Compute the net's answers (n, C) to keys (n, C)."""
    scale = 1 / math.sqrt(net["rows"] * len(net["B"]))
    return _hidden(wide(net["B"]), keys).T @ (wide(net["A"]).T * scale)


def _hidden(inner: Tensor, keys: Tensor) -> Tensor:
    """Compute ``tanh(B k)``, (H, n), of keys (n, C): as 2 sigmoid(2 B k) - 1, which is faster."""
    return (2 * inner @ keys.T).sigmoid_().mul_(2).sub_(1)


def _sharings(group: dict[str, Any]) -> Iterator[tuple[list[Tensor], int]]:
    """List the parameters that share a net, with the width C of its rows."""
    sharings: dict[Any, list[Tensor]] = {}
    for p in group["params"]:
        if p.numel():
            shape = p.shape if group["shared"] == "shape" else None
            sharings.setdefault((shape, p.dtype, p.device), []).append(p)
    for (shape, *_), sharing in sharings.items():
        yield sharing, 1 if shape is None else as_rows(sharing[0]).shape[1]


def _size(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest entry of x (...), and the root mean square of x divided by that entry.

    So no square overflows or vanishes. Dividing by both leaves a zero x zero.
    """
    low, high = x.aminmax()
    largest = wide(torch.maximum(-low, high)).clamp(min=torch.finfo(x.dtype).tiny)
    squares = [(wide(part) / largest).square_().sum() for part in x.flatten().split(NUMBERS)]
    root = (sum(squares) / x.numel()).sqrt()
    return largest, root.clamp(min=torch.finfo(root.dtype).tiny)


def _of_size_one(x: Tensor) -> Tensor:
    """Scale x (...) to a root mean square of 1; zero stays zero."""
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.abs().amax().clamp(min=tiny)
    return x / x.square().mean().sqrt().clamp(min=tiny)
