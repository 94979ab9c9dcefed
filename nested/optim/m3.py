"""M3: Muon with two momenta, a fast one and one that moves every f steps, over Adam's denominator.

State: fast and slow momentum, second moment.  It sees: gradients.  Clock: 1 and f batches.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 75 and Algorithm 1; Muon is Jordan et al. 2024.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from nested.levels.clock import Clock
from nested.optim.base import INFINITY, MemoryOptimizer, as_rows, zeros_for
from nested.optim.newton_schulz import newton_schulz

FORMS = ("ema", "paper")
NS_DTYPES = (None, torch.bfloat16, torch.float16, torch.float32, torch.float64)
MUON_RMS = 0.2  # of a full-rank step of lr 1: that of AdamW (Liu et al. 2025, arXiv 2502.16982)


class M3(MemoryOptimizer):
    """Multi-scale momentum Muon. At each step t, for weights (R, ...) as matrices of R rows,

        M1 <- M1 + b1 g,   V <- V + b2 g^2,   O1 = NS(M1)
        W  <- W - n (O1 + a O2) / (sqrt V + e)
        every f steps:     M2 <- M2 + b3 (the sum of the last f g),   O2 = NS(M2), used from then on

    That is ``form="paper"``: nothing decays, and weights that hardly ever get a gradient take steps
    without measure: digits and text are learned at no ``lr`` with this small ``eps`` (with 0.01
    they are; see ``tests/benchmarks/README.md``). ``form="ema"`` takes averages instead, ``M <- b M
    + (1 - b) g`` (M2 of the means of f gradients; V bias-corrected), and brings the step to the
    size that Muon's has, about ``0.2 n`` a weight: NS forgets the gradient's scale, but V does not,
    and while gradients shrink, steps would grow. For the same reason it divides by no less than
    ``floor`` times the root mean square of sqrt V, which is added. ``slow_weight=0`` and
    ``second_moment=False`` leave plain Muon, ``torch.optim.Muon`` without Nesterov and with
    ``adjust_lr_fn="match_rms_adamw"``.

    Settings: ``lr`` (n); ``betas`` (b1, b2), ``slow_beta`` (b3) in [0, 1); ``slow_weight`` (a);
    ``period`` (f), in steps; ``ns_steps``; ``eps`` (e); ``floor``; ``weight_decay``, decoupled, in
    units of 1 / lr; ``ns_dtype``, in which NS is computed: by default bfloat16 for float32 weights,
    as in ``torch.optim.Muon``, and that of the weights for others; ``torch.float32`` is more exact,
    takes up to 1.5 times as long, and on the problems measured reaches the same loss.
    Scalars and vectors take the AdamW rule with the same settings. Memory: four times the matrices
    (M1, M2, O2, V), twice the vectors. Raises ``ValueError`` for settings out of range.
    """

    switches = ("second_moment",)
    shaped = ("fast", "slow", "slow_direction", "square", "exp_avg", "exp_avg_sq")
    ranges = {
        "lr": (0.0, INFINITY),
        "slow_beta": (0.0, 1.0),
        "slow_weight": (0.0, INFINITY),
        "ns_steps": (0, 100),
        "eps": (0.0, INFINITY),
        "floor": (0.0, INFINITY),
        "weight_decay": (0.0, INFINITY),
    }

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        slow_beta: float = 0.9,
        slow_weight: float = 0.5,
        period: int = 20,
        ns_steps: int = 5,
        form: str = "ema",
        *,
        second_moment: bool = True,
        eps: float = 1e-8,
        floor: float = 1.0,
        weight_decay: float = 0.0,
        ns_dtype: torch.dtype | None = None,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "slow_beta": slow_beta, "slow_weight": slow_weight}
        settings |= {"period": period, "ns_steps": ns_steps, "form": form}
        settings |= {"second_moment": second_moment, "eps": eps}
        settings |= {"floor": floor, "weight_decay": weight_decay, "ns_dtype": ns_dtype}
        super().__init__(params, settings)

    def check_group(self, group: dict[str, Any]) -> None:
        super().check_group(group)
        Clock(group["period"])
        betas, steps, dtype = group["betas"], group["ns_steps"], group["ns_dtype"]
        is_pair = isinstance(betas, (tuple, list)) and len(betas) == 2
        if not is_pair or not all(isinstance(b, (int, float)) and 0 <= b < 1 for b in betas):
            raise ValueError(f"M3: betas are two numbers from 0 to below 1, but got {betas!r}")
        if type(steps) is not int:
            raise ValueError(f"M3: ns_steps is a whole number, but got {steps!r}")
        if dtype not in NS_DTYPES:
            raise ValueError(f"M3: ns_dtype is one of {NS_DTYPES}, but got {dtype!r}")
        if group["form"] not in FORMS:
            raise ValueError(f"M3: form is one of {FORMS}, but got {group['form']!r}")

    def begin(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if "step" in self.state[p]:
                continue
            if p.dim() < 2:
                zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p].update(zeros, step=torch.zeros((), dtype=torch.float32))
                continue
            names = ["fast"] + ["slow", "slow_direction"] * (group["slow_weight"] > 0)
            names += ["square"] * group["second_moment"]
            self.state[p].update({name: zeros_for(p) for name in names}, step=0)

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        vectors = [p for p in params if p.dim() < 2]
        if vectors:
            self._move_vectors(group, vectors)
        for p in params:
            if p.dim() >= 2:
                direction = self._direction(group, p)
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction.view_as(p), alpha=-group["lr"])

    def _direction(self, group: dict[str, Any], p: Tensor) -> Tensor:
        """What a matrix moves against, (R, C), after its memories have taken its gradient in."""
        state, grad, is_ema = self.state[p], as_rows(p.grad), group["form"] == "ema"
        (b1, b2), b3 = group["betas"], group["slow_beta"]
        state["step"] = step = state["step"] + 1
        tiny = torch.finfo(grad.dtype).tiny
        # M1 <- b1 M1 + (1 - b1) g,   or M1 + b1 g
        fast = _memory(state, "fast", p, b1 if is_ema else 1.0)
        fast.add_(grad, alpha=1 - b1 if is_ema else b1)
        direction = _orthogonal(fast, group)
        size = direction.norm()
        if group["slow_weight"]:
            if "slow_direction" in state:
                direction.add_(as_rows(state["slow_direction"]), alpha=group["slow_weight"])
            # M2 is its own running sum: it decays as a chunk begins, is read as the chunk ends
            is_first = step % group["period"] == 1 % group["period"]
            slow = _memory(state, "slow", p, b3 if is_ema and is_first else 1.0)
            slow.add_(grad, alpha=(1 - b3) / group["period"] if is_ema else b3)
            if Clock(group["period"]).due(step):
                state["slow_direction"] = _orthogonal(slow, group).view(p.shape)
        if group["second_moment"]:
            # V <- b2 V + (1 - b2) g^2,   or V + b2 g^2
            square = _memory(state, "square", p, b2 if is_ema else 1.0)
            square.addcmul_(grad, grad, value=1 - b2 if is_ema else b2)
            least = group["eps"]
            if is_ema:  # V's bias is left in, and the other terms get it: the size comes below
                least = least * math.sqrt(1 - b2**step) + group["floor"] * square.mean().sqrt()
            direction.div_(square.sqrt().add_(least + tiny))  # with eps = 0, too, 0 / 0 is 0
        if is_ema:
            muon_size = MUON_RMS * math.sqrt(max(grad.shape)) * size
            direction.mul_(muon_size / direction.norm().clamp(min=tiny))
        return direction

    def _move_vectors(self, group: dict[str, Any], params: list[Tensor]) -> None:
        states = [self.state[p] for p in params]
        adamw(
            params,
            [p.grad for p in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _orthogonal(memory: Tensor, group: dict[str, Any]) -> Tensor:
    usual = torch.bfloat16 if memory.dtype == torch.float32 else memory.dtype
    dtype = group["ns_dtype"] or usual
    found = newton_schulz(memory.to(dtype), group["ns_steps"])
    return torch.empty_like(memory).copy_(found)  # rows in order, for the passes that come


def _memory(state: dict[str, Any], name: str, p: Tensor, keep: float) -> Tensor:
    """The memory called ``name``, as a matrix, of which a share ``keep`` is kept."""
    if name not in state:
        state[name] = zeros_for(p)
    memory = as_rows(state[name])
    return memory if keep == 1 else memory.mul_(keep)
