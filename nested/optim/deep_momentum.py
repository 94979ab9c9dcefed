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
from nested.optim.sharded import cut_as, whole

Sizes = tuple[Tensor, Tensor]  # of a gradient, see _size
NUMBERS = 2**18  # in the largest tensor of a part, on a CPU
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
        for p in params:
            # b <- a b - n u
            self.state[p]["momentum"].mul_(momentum).sub_(p.grad, alpha=lr)
        for sharing, width in _sharings(group):
            members = [p for p in sharing if p in present]
            if not group["hidden"]:
                for p in members:
                    p.add_(self.state[p]["momentum"])
            elif members:
                net = self._net(group, sharing, width)
                sizes = {p: _size(whole(p.grad)) for p in members}
                _learn(net, [(whole(p.grad), sizes[p]) for p in members], lr, momentum)
                for p in members:
                    answer = cut_as(_answer(net, whole(p.grad), sizes[p]), p)
                    p.add_(answer.add_(self.state[p]["momentum"]))

    def _net(self, group: dict[str, Any], sharing: list[Tensor], width: int) -> dict[str, Tensor]:
        """The net of parameters that share one: it is kept with the first of them."""
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


def _learn(
    net: dict[str, Tensor], seen: list[tuple[Tensor, Sizes]], lr: float, momentum: float
) -> None:
    """Train the net, in place, on gradients (...) with their sizes."""
    scale = 1 / math.sqrt(net["rows"] * len(net["B"]))
    outer, inner = _wide(net["A"]), _wide(net["B"])
    d_outer, d_inner = torch.zeros_like(outer), torch.zeros_like(inner)
    for grad, size in seen:
        for errors in _parts(grad, net):
            keys = errors / size[0] / size[1]
            hidden = _hidden(inner, keys)  # (H, n)
            d_outer += (hidden @ errors).T
            slopes = outer.T @ errors.T
            d_inner += slopes.addcmul_(slopes, hidden.square_(), value=-1) @ keys
    # theta <- theta_0 + a (theta - theta_0) - n dL/dtheta
    net["A"].mul_(momentum).sub_(d_outer * scale, alpha=lr)
    net["B"].lerp_(net["B_start"], 1 - momentum).sub_(d_inner * scale, alpha=lr)


def _answer(net: dict[str, Tensor], grad: Tensor, size: Sizes) -> Tensor:
    """What the net says to a gradient (...), in its shape."""
    scale = 1 / math.sqrt(net["rows"] * len(net["B"]))
    outer, inner = _wide(net["A"]) * scale, _wide(net["B"])
    answer = torch.empty_like(grad, memory_format=torch.contiguous_format)
    places = answer.view(-1, len(outer)).split(_at_a_time(grad, net))
    for place, errors in zip(places, _parts(grad, net), strict=True):
        place.copy_(_hidden(inner, errors / size[0] / size[1]).T @ outer.T)
    return answer


def _hidden(inner: Tensor, keys: Tensor) -> Tensor:
    """``tanh(B k)``, (H, n), of keys (n, C): as 2 sigmoid(2 B k) - 1, which is faster."""
    return (2 * inner @ keys.T).sigmoid_().mul_(2).sub_(1)


def _parts(grad: Tensor, net: dict[str, Tensor]) -> Iterator[Tensor]:
    """The rows of a gradient, some at a time, (n, C) in float32 or more: all hidden units of all
    rows would take many times the memory of the weights."""
    rows = grad.reshape(-1, len(net["A"]))
    return map(_wide, rows.split(_at_a_time(grad, net)))


def _at_a_time(grad: Tensor, net: dict[str, Tensor]) -> int:
    numbers = NUMBERS if grad.device.type == "cpu" else 16 * NUMBERS
    return max(1, numbers // max(net["A"].shape))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _sharings(group: dict[str, Any]) -> Iterator[tuple[list[Tensor], int]]:
    """The parameters that share a net, with the width C of what it reads."""
    found: dict[Any, list[Tensor]] = {}
    for p in group["params"]:
        if p.numel():
            shape = p.shape if group["shared"] == "shape" else None
            found.setdefault((shape, p.dtype, p.device), []).append(p)
    for (shape, *_), sharing in found.items():
        yield sharing, 1 if shape is None else as_rows(sharing[0]).shape[1]


def _size(x: Tensor) -> Sizes:
    """The largest entry of x (...), and the root mean square of x over it: of the two, no square
    overflows or vanishes. By both, zero stays zero."""
    low, high = x.aminmax()
    largest = _wide(torch.maximum(-low, high))
    largest = largest.clamp(min=torch.finfo(x.dtype).tiny)
    squares = [(_wide(part) / largest).square_().sum() for part in x.flatten().split(NUMBERS)]
    root = (sum(squares) / x.numel()).sqrt()
    return largest, root.clamp(min=torch.finfo(root.dtype).tiny)


def _of_size_one(x: Tensor) -> Tensor:
    """x (...) with a root mean square of 1; zero stays zero."""
    largest, root = _size(x)
    return x / largest / root
