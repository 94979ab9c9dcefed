"""A learned optimizer: a small net that sees each coordinate, and one that sees each tensor.

State: momenta at three time scales and a second moment for each weight; the count of steps.  It
sees: the features in ``nested.rules.features``.  Clock: every inner step.
Letters: n coordinates of a tensor, F features, J directions, H features of a tensor, U hidden
units, L tensors. Source: small nets per coordinate after Metz et al. 2022 (arXiv 2203.11860); a
direction normalised per tensor, times a learned schedule, after Celo (arXiv 2501.12670).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Params, State
from nested.levels.rule import Step, UpdateRule
from nested.rules.features import (
    COORDINATE_FEATURES,
    DECAYS,
    DIRECTIONS,
    MIDDLE,
    TENSOR_FEATURES,
    TINY,
    Memories,
    Moment,
    Seen,
    features_of_tensor,
    look_at,
    moment_of,
    remember,
    within_reach,
)
from nested.rules.large import Large, Plan, direct_large, remember_large

START_LR = 0.02
START_MIX = {2 + MIDDLE: 0.5, len(DIRECTIONS) - 1: 0.5}  # half Adam's direction, half Muon's
AT_ONCE = 16384  # coordinates, where no graph is kept: what is made on the way fits a cache
LARGE = 2**15  # coordinates of a tensor, from which on it moves block by block


class CoordinatewiseRule(UpdateRule):
    """``w <- w - lr d / rms(d)``, for each tensor of weights (n,), where

        d = sum_j (c_j + mix_j) d_j        a direction, mixed from J that are known to be good,
        lr, c_j = schedule(tensor)         by a net that sees H features of the tensor,
        mix_j = coordinate_net(features)   and one that sees F features of each coordinate, and
                                           through its hidden units those of the tensor too.

    All of ``DIRECTIONS``, ``COORDINATE_FEATURES`` and ``TENSOR_FEATURES`` are in
    ``nested.rules.features``, with their meanings. ``lr`` is the root mean square of a tensor's
    step, inside ``lr_range`` by construction: no input can make a step larger. A tensor whose
    gradients have ceased, or never came, stays where it is: its "pulse" multiplies lr. With
    ``progress`` the rule must be told how many inner steps there will be:
    ``rule.for_horizon(steps)``. It does not look at the loss. ``hidden`` is U, for both nets;
    ``generator`` draws their first weights.

    Signals: ``lr``, (L,), of the tensors in order. State: "momenta" {name: (S, n)}, "square" {name:
    (n,)}, "step" and, with ``progress``, "total", (). Raises ``ValueError`` for a width or range
    that is not allowed, and from ``init`` for ``progress`` without a total.
    """

    takes_tasks = True
    needs_loss = False

    def __init__(
        self,
        hidden: int = 16,
        lr_range: tuple[float, float] = (1e-5, 1.0),
        progress: bool = True,
        total_steps: int | None = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        low, high = lr_range
        if type(hidden) is not int or hidden < 1:
            raise ValueError(f"hidden is a whole number of units from 1, but got {hidden!r}")
        if not 0 < low < START_LR < high < math.inf:
            raise ValueError(f"lr_range is (low, high) around {START_LR}, but got {lr_range}")
        self.hidden, self.lr_range, self.progress = hidden, (low, high), progress
        if total_steps is not None:
            self.for_horizon(total_steps)  # says what is not allowed
        self.total_steps = total_steps
        features, directions, tensor = map(len, (COORDINATE_FEATURES, DIRECTIONS, TENSOR_FEATURES))
        self.see = nn.Linear(features, hidden)
        self.see_tensor = nn.Linear(tensor, hidden, bias=False)
        self.mix = nn.Linear(hidden, directions, bias=False)
        self.schedule = nn.Sequential(
            nn.Linear(tensor, hidden), nn.Tanh(), nn.Linear(hidden, 1 + directions)
        )
        self._start(generator or Generator().manual_seed(0))

    @torch.no_grad()
    def _start(self, generator: Generator) -> None:
        last = self.schedule[2]
        for layer in (self.see, self.see_tensor, self.mix, self.schedule[0], last):
            shape = layer.weight.shape
            drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
            layer.weight.copy_(drawn / math.sqrt(layer.in_features))
        self.mix.weight.mul_(0.1)  # small: starts as the plain mix
        last.weight.mul_(0.2)
        self.see.bias.zero_()
        bias = self.schedule[0].bias
        bias.copy_(torch.empty_like(bias, dtype=torch.float32).uniform_(-1, 1, generator=generator))
        low, high = map(math.log, self.lr_range)
        last.bias.zero_()
        share = torch.tensor((math.log(START_LR) - low) / (high - low), dtype=torch.float32)
        last.bias[0] = torch.logit(share)
        for direction, share in START_MIX.items():
            last.bias[1 + direction] = share

    def init(self, params: Params) -> State:
        some = next(iter(params.values()))
        wide = torch.promote_types(some.dtype, torch.float32)  # half precision cannot count far
        like = {n: p.float() if p.dtype is torch.float16 else p for n, p in params.items()}
        state = {  # squares of gradients are beyond float16
            "momenta": {name: p.new_zeros(len(DECAYS), p.numel()) for name, p in like.items()},
            "square": {name: p.new_zeros(p.numel()) for name, p in like.items()},
            "step": some.new_zeros((), dtype=wide),
        }
        if self.progress:
            if self.total_steps is None:
                raise ValueError(
                    "this rule sees its progress: tell it how many steps there will be, by"
                    " total_steps, or rule.for_horizon(steps)"
                )
            state["total"] = some.new_full((), float(self.total_steps), dtype=wide)
        return state

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        step = (state["step"] + 1).unsqueeze(-1)
        moment = moment_of(step, state["total"].unsqueeze(-1) if self.progress else None)
        moved, momenta, squares, lrs = {}, {}, {}, []
        for name, p in params.items():
            memories = Memories(state["momenta"][name], state["square"][name])
            moved[name], memories, lr = self._move(p, grads[name], memories, moment, loss.dim())
            momenta[name], squares[name] = memories
            lrs.append(lr)
        kept = {"momenta": momenta, "square": squares, "step": state["step"] + 1}
        if self.progress:
            kept["total"] = state["total"] + 0
        return Step(moved, kept, {"lr": torch.cat(lrs, dim=-1)})

    def _move(
        self, p: Tensor, grad: Tensor, memories: Memories, moment: Moment, tasks: int
    ) -> tuple[Tensor, Memories, Tensor]:
        """One tensor of weights (...) moved, its memories, and its lr (1,)."""
        weight, grad = (_as_matrix(_wide(x), tasks) for x in (p, grad))
        grad, own = within_reach(grad), memories.square.dtype
        old = Memories(*map(_wide, memories))
        new = remember(old, grad.reshape(old.square.shape))
        lr, direction = self.decide(look_at(weight, grad, new, moment))
        moved = p - (lr * direction).reshape(p.shape).to(p.dtype)
        return moved, Memories(*(memory.to(own) for memory in new)), lr

    @torch.no_grad()
    def move_in_place(
        self, params: Params, grads: Params, state: State, scale: float = 1.0
    ) -> None:
        """Make the move of ``forward``, times ``scale``, by changing ``params`` {name: (...)}, all
        contiguous, and ``state``. Takes little memory beside them, and on large tensors less time.
        Raises ``RuntimeError`` for shapes that do not fit."""
        step = (state["step"] + 1).unsqueeze(-1)
        moment = moment_of(step, state["total"].unsqueeze(-1) if self.progress else None)
        for name, p in params.items():
            memories = Memories(state["momenta"][name], state["square"][name])
            if p.numel() >= LARGE:
                self._move_large(p, grads[name], memories, moment, scale)
                continue
            moved, new, _ = self._move(p, grads[name], memories, moment, 0)
            for memory, after in zip(memories, new):
                memory.copy_(after)
            p.copy_(moved) if scale == 1 else p.lerp_(moved, scale)
        state["step"] += 1

    def _move_large(
        self, p: Tensor, grad: Tensor, memories: Memories, moment: Moment, scale: float
    ) -> None:
        is_matrix, count = p.dim() > 1, p.numel()
        shape = (p.shape[0], count // p.shape[0]) if is_matrix else (1, count)
        large = Large(p.view(-1), grad.reshape(-1), memories, moment, shape, is_matrix)
        summary = remember_large(large)
        columns = shape[1] if is_matrix else 1
        _, tensor, pulse = features_of_tensor(summary, moment, is_matrix, columns, count)
        lr, plan = self._plan(tensor)
        direction = direct_large(large, summary, plan)
        size = (direction.dot(direction) / len(direction) + TINY).sqrt()
        direction *= scale * lr.to(size.dtype) * pulse / size
        large.weight.sub_(direction.to(p.dtype))

    def _plan(self, tensor: Tensor) -> tuple[Tensor, Plan]:
        """The step size (1,), before its pulse, and what the nets make of the features (H,) of a
        tensor."""
        tensor = tensor.to(self.see.weight.dtype)
        low, high = map(math.log, self.lr_range)
        share, plain = self.schedule(tensor).split([1, len(DIRECTIONS)], dim=-1)
        lr = torch.exp(low + (high - low) * torch.sigmoid(share))
        shift = self.see.bias + self.see_tensor(tensor)  # (U,)
        return lr, Plan(plain, shift, self.see.weight, self.mix.weight)

    def decide(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """The step size (1,) and the direction (n,), of root mean square 1, of one tensor. Raises
        ``RuntimeError`` for features of another number."""
        own = self.see.weight.dtype
        lr, (plain, shift, see, mixing) = self._plan(seen.tensor)
        count = seen.weight.shape[-1]
        at_once = max(count, 1) if torch.is_grad_enabled() else AT_ONCE
        parts = []
        for start in range(0, max(count, 1), at_once):
            x, directions = seen.at(slice(start, start + at_once))
            hidden = torch.relu(_affine(see, x.to(own), shift))  # (U, n)
            mix = _affine(mixing, hidden, plain)  # (J, n)
            parts.append((mix * directions).sum(-2))
        direction = torch.cat(parts, dim=-1)
        size = (direction.square().mean(-1, keepdim=True) + TINY).sqrt()
        return lr.to(direction.dtype) * seen.pulse, direction / size


def _wide(x: Tensor) -> Tensor:
    """At least float32: half precision is too coarse for squares and logarithms."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _as_matrix(x: Tensor, tasks: int) -> Tensor:
    """A tensor of weights as a matrix (R, C), or as a vector (n,); T of them if ``tasks`` is 1."""
    if x.dim() - tasks >= 2:
        return x.flatten(tasks + 1)
    return x.flatten(tasks) if x.dim() > tasks else x.unsqueeze(-1)


def _affine(weight: Tensor, x: Tensor, shift: Tensor) -> Tensor:
    """``weight x + shift``, (A, n), for weight (A, B), x (B, n) and shift (A,); of T tasks too."""
    if x.dim() == 2:
        return torch.addmm(shift.unsqueeze(-1), weight, x)
    return torch.baddbmm(shift.unsqueeze(-1), weight.expand(len(x), -1, -1), x)
