"""M3: Muon with a fast and a slow momentum, divided by Adam's denominator.

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
from nested.optim.fast_dtype import fast_dtype
from nested.optim.newton_schulz import newton_schulz
from nested.optim.sharded import replicated

FORMS = ("ema", "paper")
NS_DTYPES = (None, torch.bfloat16, torch.float16, torch.float32, torch.float64)
NAMED = {str(dtype).removeprefix("torch."): dtype for dtype in NS_DTYPES if dtype}
MUON_RMS = 0.2  # root mean square of a step of lr 1, as AdamW's (Liu et al. 2025, 2502.16982)


class M3(MemoryOptimizer):
    """Multi-scale momentum Muon. At each step t, for weights (R, ...) as matrices of R rows,

        M1 <- M1 + b1 g,   V <- V + b2 g^2,   O1 = NS(M1)
        W  <- W - n (O1 + a O2) / (sqrt V + e)
        every f steps:     M2 <- M2 + b3 (the sum of the last f g),   O2 = NS(M2), used from then on

    where NS is ``newton_schulz``. This is ``form="paper"``. There nothing decays, and weights that
    rarely get a gradient take steps of unbounded size, unless ``eps`` is raised.

    ``form="ema"``, the default, takes averages instead: ``M <- b M + (1 - b) g``, M2 of the means
    of f gradients, V bias-corrected. It scales the step to the size of Muon's, about ``0.2 n`` per
    weight. Without that, steps would grow while gradients shrink, since NS ignores the gradient's
    scale and V does not. For the same reason it adds ``floor`` times the root mean square of sqrt V
    to the denominator. With ``slow_weight=0`` and ``second_moment=False`` it is plain Muon,
    ``torch.optim.Muon`` without Nesterov and with ``adjust_lr_fn="match_rms_adamw"``.

    Settings: ``lr`` (n); ``betas`` (b1, b2) and ``slow_beta`` (b3) in [0, 1); ``slow_weight`` (a);
    ``period`` (f), in steps; ``ns_steps``; ``eps`` (e); ``floor``; ``weight_decay``, decoupled, in
    units of 1 / lr; ``ns_dtype``, in which NS is computed. The default is float64 for float64
    weights. For others it is bfloat16, as in ``torch.optim.Muon``, if the device has units for it,
    and float32 otherwise: see ``fast_dtype``. ``ns_dtype(p)`` and ``repr`` show it.

    ``matrices`` says what the weights of a group are; ``matrix_groups`` sorts those of a model.
    True: each weight (R, ...) is a matrix. ``"stacks"``: each weight (..., R, C) is a stack, whose
    matrices are updated one by one. False: none is a matrix, as with embeddings and heads. These,
    and all scalars and vectors, take AdamW with the same settings.

    Memory: four times the matrices (M1, M2, O2, V), twice the rest. Raises ``ValueError`` for
    settings out of range.
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
        matrices: bool | str = True,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "slow_beta": slow_beta, "slow_weight": slow_weight}
        settings |= {"period": period, "ns_steps": ns_steps, "form": form}
        settings |= {"second_moment": second_moment, "eps": eps}
        settings |= {"floor": floor, "weight_decay": weight_decay, "ns_dtype": ns_dtype}
        settings |= {"matrices": matrices}
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
        kind = group["matrices"]
        if not isinstance(kind, bool) and kind != "stacks":
            raise ValueError(f'M3: matrices is True, False or "stacks", but got {kind!r}')
        if group["form"] not in FORMS:
            raise ValueError(f"M3: form is one of {FORMS}, but got {group['form']!r}")

    def ns_dtype(self, p: Tensor) -> torch.dtype:
        """Return the dtype of the Newton-Schulz steps for a weight ``p`` (...) of this optimizer.
        Raises ``KeyError`` for another weight."""
        for group in self.param_groups:
            if any(p is other for other in group["params"]):
                return _ns_dtype(group, p)
        raise KeyError("this weight is in no group of the optimizer")

    def __repr__(self) -> str:
        dtypes = {
            str(_ns_dtype(group, p))
            for group in self.param_groups
            for p in group["params"]
            if _is_matrix(group, p)
        }
        note = f"\northogonalises in {' and '.join(sorted(dtypes))}" if dtypes else ""
        return super().__repr__() + note

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        for group in saved["param_groups"]:  # a name, as not every loader accepts a dtype
            if group["ns_dtype"]:
                group["ns_dtype"] = str(group["ns_dtype"]).removeprefix("torch.")
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = []
        for group in state_dict.get("param_groups", []):
            group = {"matrices": True, **group}  # older versions did not save "matrices"
            if group.get("ns_dtype"):
                group["ns_dtype"] = NAMED.get(group["ns_dtype"], group["ns_dtype"])
            groups.append(group)
        super().load_state_dict({**state_dict, "param_groups": groups} if groups else state_dict)

    def begin(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if "step" in self.state[p]:
                continue
            if not _is_matrix(group, p):
                zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p].update(zeros, step=torch.zeros((), dtype=torch.float32))
                continue
            names = ["fast"]
            if group["slow_weight"]:
                names += ["slow", "slow_direction"]
            if group["second_moment"]:
                names.append("square")
            self.state[p].update({name: zeros_for(p) for name in names}, step=0)

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        others = [p for p in params if not _is_matrix(group, p)]
        if others:
            self._move_others(group, others)
        for p in params:
            if _is_matrix(group, p):
                direction = self._direction(group, p)
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction.view(p.shape), alpha=-group["lr"])

    def _direction(self, group: dict[str, Any], p: Tensor) -> Tensor:
        """Update the memories of matrices (..., R, C), and return the direction to subtract."""
        state, grad, is_ema = self.state[p], _as_matrices(p.grad, group), group["form"] == "ema"
        (b1, b2), b3 = group["betas"], group["slow_beta"]
        state["step"] = step = state["step"] + 1
        tiny = torch.finfo(grad.dtype).tiny
        # M1 <- b1 M1 + (1 - b1) g,   or M1 + b1 g
        fast = _memory(state, "fast", p, group, b1 if is_ema else 1.0)
        fast.add_(grad, alpha=1 - b1 if is_ema else b1)
        direction = _orthogonal(fast, group, p)
        size = _norm(direction)
        if group["slow_weight"]:
            if "slow_direction" in state:
                slow = _as_matrices(state["slow_direction"], group)
                direction.add_(slow, alpha=group["slow_weight"])
            # M2 also sums the gradients of the current period: it decays at the first step of a
            # period, and is read at the last
            is_first = (step - 1) % group["period"] == 0
            slow = _memory(state, "slow", p, group, b3 if is_ema and is_first else 1.0)
            slow.add_(grad, alpha=(1 - b3) / group["period"] if is_ema else b3)
            if Clock(group["period"]).due(step):
                state["slow_direction"] = _orthogonal(slow, group, p).view(p.shape)
        if group["second_moment"]:
            # V <- b2 V + (1 - b2) g^2,   or V + b2 g^2
            square = _memory(state, "square", p, group, b2 if is_ema else 1.0)
            square.addcmul_(grad, grad, value=1 - b2 if is_ema else b2)
            added = group["eps"]
            if is_ema:  # V keeps its bias, and eps gets the same factor: the size is set below
                root = replicated(square.mean((-2, -1), keepdim=square.dim() > 2)).sqrt()
                added = added * math.sqrt(1 - b2**step) + group["floor"] * root
            direction.div_(square.sqrt().add_(added + tiny))  # ``tiny`` makes 0 / 0 zero
        if is_ema:
            muon_size = MUON_RMS * math.sqrt(max(grad.shape[-2:])) * size
            direction.mul_(muon_size / _norm(direction).clamp(min=tiny))
        return direction

    def _move_others(self, group: dict[str, Any], params: list[Tensor]) -> None:
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


def _is_matrix(group: dict[str, Any], p: Tensor) -> bool:
    return p.dim() >= 2 and group["matrices"] is not False


def _as_matrices(x: Tensor, group: dict[str, Any]) -> Tensor:
    """View x as a matrix (R, C), or as a stack of them (N, R, C)."""
    if group["matrices"] == "stacks":
        return x.reshape(-1, *x.shape[-2:]) if x.dim() > 2 else x
    return as_rows(x)


def _norm(x: Tensor) -> Tensor:
    """Compute the Frobenius norm of a matrix (R, C), (), or of each in a stack, (N, 1, 1)."""
    return replicated(torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=x.dim() > 2))


def _ns_dtype(group: dict[str, Any], p: Tensor) -> torch.dtype:
    if group["ns_dtype"] or p.dtype == torch.float64:
        return group["ns_dtype"] or p.dtype
    if p.dtype == torch.float16:
        return p.dtype if p.device.type == "cuda" else torch.float32
    return fast_dtype(p.device)


def _orthogonal(memory: Tensor, group: dict[str, Any], p: Tensor) -> Tensor:
    orthogonal = newton_schulz(memory.to(_ns_dtype(group, p)), group["ns_steps"])
    return torch.empty_like(memory).copy_(orthogonal)  # contiguous rows are faster to read


def _memory(
    state: dict[str, Any], name: str, p: Tensor, group: dict[str, Any], keep: float
) -> Tensor:
    """Return the memory called ``name``, as matrices, multiplied in place by ``keep``."""
    if name not in state:
        state[name] = zeros_for(p)
    memory = _as_matrices(state[name], group)
    return memory if keep == 1 else memory.mul_(keep)
