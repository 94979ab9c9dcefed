"""A learned optimizer that blends known directions at each weight, and sets a step size per tensor.

State: momenta at three decays and a second moment for each weight; the step count.  It sees: the
features of ``nested.rules.features``.  Clock: every inner step.
Letters: n coordinates of a tensor, S decays, F features of a coordinate, J directions, H features
of a tensor, U hidden units, L tensors, T tasks.
Source: small nets per coordinate after Metz et al. 2022 (arXiv 2203.11860); a direction normalised
per tensor, times a learned schedule, after Celo (arXiv 2501.12670).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from nested.levels.context import wide
from nested.levels.forward import Params, State
from nested.levels.rule import Step, UpdateRule
from nested.rules.features import (
    COORDINATE_FEATURES,
    DECAYS,
    DIRECTIONS,
    TENSOR_FEATURES,
    TINY,
    Memories,
    TensorView,
    Time,
    alive_share,
    coordinate_features,
    features_from_means,
    remember,
    sanitise,
    tensor_features,
    time_features,
)
from nested.rules.large import Large, Plan, direct_large, remember_large
from nested.rules.registry import register

START_LR = 0.02
START_BLEND = {"momentum 0.9 over root V": 0.5, "momentum 0.9, orthogonal": 0.5}  # Adam and Muon
CACHED = 16384  # coordinates per pass without a graph, so that temporary tensors fit a cache
LARGE = 2**15  # tensors of at least this many coordinates take the fast path of ``large.py``


@register
class CoordinatewiseRule(UpdateRule):
    """Update each tensor of weights (n,) by ``w <- w - lr d / rms(d)``, where

        d = sum_j (c_j + mix_j) d_j        blends J directions at each coordinate,
        lr, c_j = schedule(tensor)         come from a net that sees H features of the tensor,
        mix_j = coordinate_net(features)   comes from a net that sees F features of the coordinate.

    Hidden units of the second net also receive the features of the tensor. Directions and features
    are listed in ``nested.rules.features``. ``lr`` is the root mean square of a tensor's step. It
    lies inside ``lr_range`` by construction, so that no input can make a step larger. A tensor that
    receives no gradients stays where it is. The rule does not see the loss.

    With ``progress`` the rule sees the share of the run that is done, and needs the number of inner
    steps: ``rule.for_horizon(steps)``. ``hidden`` is U, for both nets; ``generator`` draws their
    initial weights.

    Signals: ``lr``, (L,), in the order of the tensors. State: "momenta" {name: (S, n)}, "square"
    {name: (n,)}, "step" () and, with ``progress``, "total" (). Raises ``ValueError`` for a width or
    range that is not allowed; ``init`` raises it for ``progress`` without a number of steps.
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
            self.for_horizon(total_steps)  # refuses a wrong number
        self.total_steps = total_steps
        features, directions, tensor = map(len, (COORDINATE_FEATURES, DIRECTIONS, TENSOR_FEATURES))
        self.see = nn.Linear(features, hidden)
        self.see_tensor = nn.Linear(tensor, hidden, bias=False)
        self.mix = nn.Linear(hidden, directions, bias=False)
        self.schedule = nn.Sequential(
            nn.Linear(tensor, hidden), nn.Tanh(), nn.Linear(hidden, 1 + directions)
        )
        self._draw_weights(generator or Generator().manual_seed(0))

    @torch.no_grad()
    def _draw_weights(self, generator: Generator) -> None:
        """Start near the rate ``START_LR`` and the blend ``START_BLEND``."""
        last = self.schedule[2]
        for layer in (self.see, self.see_tensor, self.mix, self.schedule[0], last):
            shape = layer.weight.shape
            drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
            layer.weight.copy_(drawn / math.sqrt(layer.in_features))
        self.mix.weight.mul_(0.1)
        last.weight.mul_(0.2)
        self.see.bias.zero_()
        bias = self.schedule[0].bias
        bias.copy_(torch.empty_like(bias, dtype=torch.float32).uniform_(-1, 1, generator=generator))
        low, high = map(math.log, self.lr_range)
        last.bias.zero_()
        share = torch.tensor((math.log(START_LR) - low) / (high - low), dtype=torch.float32)
        last.bias[0] = torch.logit(share)
        for name, coefficient in START_BLEND.items():
            last.bias[1 + DIRECTIONS.index(name)] = coefficient

    def init(self, params: Params) -> State:
        first = next(iter(params.values()))
        count_dtype = torch.promote_types(first.dtype, torch.float32)  # half counts only to 2,048
        # squares of gradients overflow float16
        like = {n: p.float() if p.dtype is torch.float16 else p for n, p in params.items()}
        state = {
            "momenta": {name: p.new_zeros(len(DECAYS), p.numel()) for name, p in like.items()},
            "square": {name: p.new_zeros(p.numel()) for name, p in like.items()},
            "step": first.new_zeros((), dtype=count_dtype),
        }
        if self.progress:
            if self.total_steps is None:
                raise ValueError(
                    "this rule sees its progress and needs the number of steps: give total_steps,"
                    " or use rule.for_horizon(steps)"
                )
            state["total"] = first.new_full((), float(self.total_steps), dtype=count_dtype)
        return state

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        time = self._time(state)
        new_params, momenta, squares, lrs = {}, {}, {}, []
        for name, p in params.items():
            memories = Memories(state["momenta"][name], state["square"][name])
            new_params[name], memories, lr = self._step(p, grads[name], memories, time, loss.dim())
            momenta[name], squares[name] = memories
            lrs.append(lr)
        new_state = {"momenta": momenta, "square": squares, "step": state["step"] + 1}
        if self.progress:
            new_state["total"] = state["total"] + 0
        return Step(new_params, new_state, {"lr": torch.cat(lrs, dim=-1)})

    def _time(self, state: State) -> Time:
        step = (state["step"] + 1).unsqueeze(-1)
        return time_features(step, state["total"].unsqueeze(-1) if self.progress else None)

    def _step(
        self, p: Tensor, grad: Tensor, memories: Memories, time: Time, task_dims: int
    ) -> tuple[Tensor, Memories, Tensor]:
        """Return the new weights (...) of one tensor, its new memories, and its lr (1,)."""
        weight, grad = (_as_matrix(wide(x), task_dims) for x in (p, grad))
        grad, memory_dtype = sanitise(grad), memories.square.dtype
        old = Memories(*map(wide, memories))
        new = remember(old, grad.reshape(old.square.shape))
        lr, direction = self.decide(tensor_features(weight, grad, new, time))
        # w <- w - lr d / rms(d)
        new_p = p - (lr * direction).reshape(p.shape).to(p.dtype)
        return new_p, Memories(*(memory.to(memory_dtype) for memory in new)), lr

    def decide(self, view: TensorView) -> tuple[Tensor, Tensor]:
        """Choose the step size (1,) of one tensor, and its direction (n,) with a root mean square
        of 1. Raises ``RuntimeError`` for a view with another number of features."""
        net_dtype = self.see.weight.dtype
        lr, (shared_blend, shift, see, mix) = self._plan(view.features)
        count = view.weight.shape[-1]
        size = max(count, 1) if torch.is_grad_enabled() else CACHED
        parts = []
        for start in range(0, max(count, 1), size):
            features, directions = coordinate_features(view, slice(start, start + size))
            hidden = torch.relu(_affine(see, features.to(net_dtype), shift))  # (U, N)
            blend = _affine(mix, hidden, shared_blend)  # (J, N)
            parts.append((blend * directions).sum(-2))  # d = sum_j blend_j d_j
        direction = torch.cat(parts, dim=-1)
        rms = (direction.square().mean(-1, keepdim=True) + TINY).sqrt()
        return lr.to(direction.dtype) * view.alive, direction / rms

    def _plan(self, features: Tensor) -> tuple[Tensor, Plan]:
        """Compute what the features (H,) of a tensor decide: the step size (1,) while gradients
        come, and the tensor's part in the blend."""
        features = features.to(self.see.weight.dtype)
        low, high = map(math.log, self.lr_range)
        share, shared_blend = self.schedule(features).split([1, len(DIRECTIONS)], dim=-1)
        lr = torch.exp(low + (high - low) * torch.sigmoid(share))
        shift = self.see.bias + self.see_tensor(features)  # (U,)
        return lr, Plan(shared_blend, shift, self.see.weight, self.mix.weight)

    @torch.no_grad()
    def move_in_place(
        self, params: Params, grads: Params, state: State, scale: float = 1.0
    ) -> None:
        """Make the step of ``forward``, times ``scale``, by changing ``params`` {name: (...)} and
        ``state``. Saves memory, and time on large tensors. ``params`` must be contiguous. Raises
        ``RuntimeError`` for shapes that do not fit."""
        time = self._time(state)
        for name, p in params.items():
            memories = Memories(state["momenta"][name], state["square"][name])
            if p.numel() >= LARGE:
                self._step_large(p, grads[name], memories, time, scale)
                continue
            new_p, new_memories, _ = self._step(p, grads[name], memories, time, 0)
            for memory, new in zip(memories, new_memories):
                memory.copy_(new)
            if scale == 1:
                p.copy_(new_p)
            else:
                p.lerp_(new_p, scale)
        state["step"] += 1

    def _step_large(
        self, p: Tensor, grad: Tensor, memories: Memories, time: Time, scale: float
    ) -> None:
        is_matrix, count = p.dim() > 1, p.numel()
        shape = (p.shape[0], count // p.shape[0]) if is_matrix else (1, count)
        large = Large(p.view(-1), grad.reshape(-1), memories, time, shape, is_matrix)
        means = remember_large(large)
        columns = shape[1] if is_matrix else 1
        lr, plan = self._plan(features_from_means(means, time, is_matrix, columns, count))
        direction = direct_large(large, means, plan)
        rms = (direction.dot(direction) / len(direction) + TINY).sqrt()
        direction *= scale * lr.to(rms.dtype) * alive_share(means) / rms
        large.weight.sub_(direction.to(p.dtype))


def _as_matrix(x: Tensor, task_dims: int) -> Tensor:
    """View weights as a matrix (R, C) or a vector (n,), after 0 or 1 task dimensions."""
    if x.dim() - task_dims >= 2:
        return x.flatten(task_dims + 1)
    return x.flatten(task_dims) if x.dim() > task_dims else x.unsqueeze(-1)


def _affine(weight: Tensor, x: Tensor, shift: Tensor) -> Tensor:
    """Compute ``weight x + shift``: (A, n) of weight (A, B), x (B, n) and shift (A,); or of T x."""
    if x.dim() == 2:
        return torch.addmm(shift.unsqueeze(-1), weight, x)
    return torch.baddbmm(shift.unsqueeze(-1), weight.expand(len(x), -1, -1), x)
