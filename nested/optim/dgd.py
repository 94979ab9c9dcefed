"""Delta gradient descent: each linear layer is the exact memory of its inputs and errors.

State: none but the weights.  It sees: gradients, and the inputs of each layer.  Clock: every batch.
Letters: N rows a layer saw, D inputs, O outputs.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 56-57 and appendix C, for a batch.
"""

from __future__ import annotations

import math
import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from nested.optim.base import INFINITY, MemoryOptimizer

REDUCTIONS = ("mean", "sum")
LARGE = 1e6  # beside the 1 of I: of float64's 16 digits, 10 are left


class DGD(MemoryOptimizer):
    """Gradient descent whose weights also forget, in the directions of the inputs they just met.

    For the weight W (O, D) of each ``nn.Linear`` in ``module``, a step is the exact minimiser of

        1/N sum_i 1/2 |W x_i - u_i|^2 + 1/(2n) |W - W_t|^2        (eq. 56 for N rows)

    over the N rows x_i that the layer saw since the last step; ``u_i = -N dL/dy_i`` for a loss that
    is a mean (``reduction="mean"``), ``-dL/dy_i`` for a sum. For one row of norm 1 that is eq. 57,
    ``W (I - n' x x^T) - n' g``, ``n' = n / (1 + n)``. Since ``sum_i u_i x_i^T`` is -N times the
    gradient (-1 times, for a sum), the errors are read from ``W.grad``: so clipped and accumulated
    gradients count as they are, and what a tied embedding adds counts as a plain gradient. Inputs
    are seen by hooks; a forward pass without a backward pass, or under ``no_grad``, does not count,
    nor does one whose gradient was made by ``torch.autograd.grad`` and set by hand.

    Biases, and all parameters that are no weight of such a layer, take plain gradient descent with
    the same ``lr`` (n, at least 0); those other than biases are named in a warning, once. Rows are
    kept until ``step``, ``zero_grad``, or a backward pass that finds the gradient gone (``None``).
    Raises ``ValueError`` for settings out of range and lazy modules, ``TypeError`` when copied: the
    hooks belong to one module.

    It makes each layer's output equal -dL/dy. For logits under cross entropy that is under 1 in
    size, so that the loss stays high, whatever ``lr`` is: 1.86 on digits where a tuned AdamW
    reaches 0.32. What is exact for each layer alone need not be good for the net.
    """

    ranges = {"lr": (0.0, INFINITY)}

    def __init__(
        self, params: Any, lr: float, *, module: nn.Module, reduction: str = "mean"
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ValueError(f"DGD watches the layers of a module, but got {module!r}")
        if any(map(nn.parameter.is_lazy, module.parameters())):
            raise ValueError("the module has lazy parameters: run a batch through it first")
        self.mine: set[Tensor] = set()  # all parameters of the groups
        # of each weight, since its last step, by forward pass: two backward passes count it once
        self.rows: dict[Tensor, dict[object, Tensor]] = {}
        self.pending: dict[Tensor, tuple[int, dict[object, Tensor]]] = {}  # of one backward pass
        self.reported: set[Tensor] = set()
        self.names = {p: name for name, p in module.named_parameters()}
        super().__init__(params, {"lr": lr, "reduction": reduction})
        # a weight that is computed anew at each pass (weight_norm) is no parameter of the layer
        layers = [
            layer
            for layer in module.modules()
            if isinstance(layer, nn.Linear)
            and "weight" in dict(layer.named_parameters(recurse=False))
        ]
        self.biases = {layer.bias for layer in layers}
        for layer in layers:
            _listen(layer, weakref.ref(self))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.mine.update(self.param_groups[-1]["params"])

    def check_group(self, group: dict[str, Any]) -> None:
        super().check_group(group)
        if group["reduction"] not in REDUCTIONS:
            raise ValueError(f"reduction is one of {REDUCTIONS}, but got {group['reduction']!r}")

    def note(self, weight: Tensor, rows: Tensor, forward_pass: object) -> None:
        """Hold the rows (N, D) of one backward pass until it has reached ``weight`` (O, D). Rows of
        earlier passes go when their gradient has gone."""
        run = torch._C._current_graph_task_id()  # one number for each backward pass
        if weight not in self.pending or self.pending[weight][0] != run:
            self.pending[weight] = run, {}
            if weight.grad is None:
                self.rows.pop(weight, None)
        self.pending[weight][1][forward_pass] = rows.clone()  # the batch's memory may be used again

    def keep(self, weight: Tensor) -> None:
        """Keep what was noted: the backward pass has added its gradient to ``weight`` (O, D)."""
        self.rows.setdefault(weight, {}).update(self.pending.pop(weight, (0, {}))[1])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and the rows that belong to them."""
        super().zero_grad(set_to_none)
        self.rows.clear()
        self.pending.clear()

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, plain = group["lr"], []
        for p in params:
            rows = self.rows.pop(p, None)
            self.pending.pop(p, None)
            if rows is None:
                p.add_(p.grad, alpha=-lr)
                plain += [p] if p not in self.biases and p not in self.reported else []
                continue
            inputs = torch.cat(list(rows.values()))
            rate = lr / max(len(inputs), 1) if group["reduction"] == "sum" else lr
            p.copy_(forget(p.double() - rate * p.grad.double(), inputs, lr))
        if plain:
            self.reported.update(plain)
            names = ", ".join(self.names.get(p, "a parameter outside the module") for p in plain)
            warnings.warn(f"DGD saw no inputs of {names}: plain gradient descent", stacklevel=5)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a DGD cannot be copied or pickled: make a new one and load its state_dict")


def _listen(layer: nn.Linear, reference: weakref.ref[DGD]) -> None:
    """Tell the optimizer of the layer's inputs; a module must not keep its optimizer alive."""
    told: set[Tensor] = set()

    def keep(weight: Tensor) -> None:
        if (optimizer := reference()) is not None:
            optimizer.keep(weight)

    def watch(layer: nn.Linear, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        optimizer, weight = reference(), layer.weight
        if optimizer is None or weight not in optimizer.mine:  # a copy of the module has its own
            return
        if output.requires_grad and weight.requires_grad:
            if weight not in told:
                told.add(weight)
                weight.register_post_accumulate_grad_hook(keep)
            seen = (args[0] if args else kwargs["input"]).detach()
            seen = seen.flatten(0, -2) if seen.dim() > 1 else seen[None]  # (N, D)
            this = object()
            output.register_hook(lambda _: optimizer.note(weight, seen, this))

    layer.register_forward_hook(watch, with_kwargs=True)


def forget(weight: Tensor, inputs: Tensor, lr: float) -> Tensor:
    """Return ``W (I + n/N X^T X)^-1``, (O, D), for W (O, D) and N rows X (N, D), solved in the
    smaller of N and D, in float64: large inputs that depend on each other make it ill-conditioned.
    Source: eq. 56 with u = 0; for N < D by Woodbury's identity, ``(I + n/N X^T X)^-1 = I - n/N X^T
    (I + n/N X X^T)^-1 X``. Where squares of X would swallow the I, by ``X = U S V^T``: ``W - W V
    (n/N S^2 / (1 + n/N S^2)) V^T``, which takes longer. Raises ``torch.linalg.LinAlgError`` should
    that not converge."""
    if not inputs.numel():
        return weight
    w, x = weight.double(), inputs.double()
    rate, (rows, width) = lr / len(inputs), x.shape
    gram = rate * (x.T @ x if width <= rows else x @ x.T)
    if LARGE < gram.diagonal().max() < INFINITY:
        _, s, v = torch.linalg.svd(x * math.sqrt(rate), full_matrices=False)
        return (w - (w @ v.T * (s * s / (1 + s * s))) @ v).to(weight.dtype)
    gram.diagonal().add_(1)
    root = torch.linalg.cholesky_ex(gram).L  # of what is no number: NaN, as in any optimizer
    if width <= rows:
        return torch.cholesky_solve(w.T, root).T.to(weight.dtype)
    return (w - rate * torch.cholesky_solve(x @ w.T, root).T @ x).to(weight.dtype)
