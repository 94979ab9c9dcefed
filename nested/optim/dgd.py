"""Delta gradient descent: each linear layer is the exact memory of its inputs and errors.

State: none but the weights.  It sees: gradients, and the inputs of each layer.  Clock: every batch.
Letters: N rows a layer saw, D inputs, O outputs.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 56-57 and appendix C, for a batch.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from nested.optim.base import INFINITY, MemoryOptimizer

REDUCTIONS = ("mean", "sum")


class DGD(MemoryOptimizer):
    """Gradient descent whose weights also forget, in the directions of the inputs they just met.

    For the weight W (O, D) of each ``nn.Linear`` in ``module``, a step is the exact minimiser of

        1/N sum_i 1/2 |W x_i - u_i|^2 + 1/(2n) |W - W_t|^2        (eq. 56 for N rows)

    over the N rows x_i that the layer saw since the last step; ``u_i = -N dL/dy_i`` for a loss that
    is a mean (``reduction="mean"``), ``-dL/dy_i`` for a sum. For one row of norm 1 that is eq. 57,
    ``W (I - n' x x^T) - n' g``, ``n' = n / (1 + n)``. Since ``sum_i u_i x_i^T`` is -N times the
    gradient (-1 times, for a sum), the errors are read from ``W.grad``: so clipped and accumulated
    gradients count as they are. Inputs are seen by hooks; a forward pass without a backward pass,
    or one under ``no_grad``, does not count.

    Biases, and all parameters that are no weight of such a layer, take plain gradient descent with
    the same ``lr`` (n, at least 0); those other than biases are named in one warning. Rows are kept
    until ``step`` or ``zero_grad``. Raises ``ValueError`` for settings out of range, ``TypeError``
    when copied: the hooks belong to one module.
    """

    ranges = {"lr": (0.0, INFINITY)}

    def __init__(
        self, params: Any, lr: float, *, module: nn.Module, reduction: str = "mean"
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ValueError(f"DGD watches the layers of a module, but got {module!r}")
        super().__init__(params, {"lr": lr, "reduction": reduction})
        self.names = {p: name for name, p in module.named_parameters()}
        self.reported = False
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        self.biases = {layer.bias for layer in layers if layer.bias is not None}
        self.rows: dict[Tensor, list[Tensor]] = {layer.weight: [] for layer in layers}
        self.pending: dict[Tensor, tuple[int, list[Tensor]]] = {}
        watching = weakref.ref(self)  # a module must not keep its optimizer alive

        def watch(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            optimizer = watching()
            if optimizer is not None and layer.weight in optimizer.rows and output.requires_grad:
                seen = inputs[0].detach().reshape(-1, layer.in_features)
                output.register_hook(lambda _: optimizer.note(layer.weight, seen))

        def keep(weight: Tensor) -> None:
            optimizer = watching()
            if optimizer is not None and weight in optimizer.pending:
                optimizer.rows[weight] += optimizer.pending.pop(weight)[1]

        for layer in layers:
            layer.register_forward_hook(watch)
            if layer.weight.requires_grad:
                layer.weight.register_post_accumulate_grad_hook(keep)

    def check_group(self, group: dict[str, Any]) -> None:
        super().check_group(group)
        if group["reduction"] not in REDUCTIONS:
            raise ValueError(f"reduction is one of {REDUCTIONS}, but got {group['reduction']!r}")

    def note(self, weight: Tensor, rows: Tensor) -> None:
        """Hold the rows (N, D) of one backward pass until it has reached ``weight`` (O, D). Rows of
        earlier passes go when their gradient has gone."""
        run = torch._C._current_graph_task_id()  # one number for each backward pass
        if weight not in self.pending or self.pending[weight][0] != run:
            self.pending[weight] = run, []
            if weight.grad is None or not weight.grad.any():
                self.rows[weight].clear()
        self.pending[weight][1].append(rows)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and the rows that belong to them."""
        super().zero_grad(set_to_none)
        for rows in self.rows.values():
            rows.clear()

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, plain = group["lr"], []
        for p in params:
            if not self.rows.get(p):
                p.add_(p.grad, alpha=-lr)
                plain += [p] if p not in self.biases else []
                continue
            inputs = torch.cat(self.rows[p])
            self.rows[p].clear()
            rate = lr / len(inputs) if group["reduction"] == "sum" else lr
            p.copy_(forget(p - rate * p.grad, inputs, lr))
        if plain and not self.reported:
            self.reported = True
            names = ", ".join(self.names.get(p, "(not in the module)") for p in plain)
            warnings.warn(f"DGD saw no inputs of {names}: plain gradient descent", stacklevel=4)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a DGD cannot be copied or pickled: make a new one and load its state_dict")


def forget(weight: Tensor, inputs: Tensor, lr: float) -> Tensor:
    """Return ``W (I + n/N X^T X)^-1``, (O, D), for W (O, D) and N rows X (N, D), solved in the
    smaller of N and D. Half precision is solved in float32. Source: eq. 56 with u = 0; for N < D by
    Woodbury's identity, ``(I + n/N X^T X)^-1 = I - n/N X^T (I + n/N X X^T)^-1 X``."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    w, x = weight.to(dtype), inputs.to(dtype)
    rate, (rows, width) = lr / len(inputs), x.shape
    gram = rate * (x.T @ x if width <= rows else x @ x.T)
    gram.diagonal().add_(1)
    root = torch.linalg.cholesky_ex(gram).L  # of what is no number: NaN, as in any optimizer
    if width <= rows:
        return torch.cholesky_solve(w.T, root).T
    return w - rate * torch.cholesky_solve(x @ w.T, root).T @ x
