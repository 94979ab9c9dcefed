"""Delta gradient descent: each step stores inputs and errors of a linear layer exactly.

State: only the weights.  It sees: gradients, and the inputs of each layer.  Clock: every batch.
Letters: N rows that a layer received, D inputs, O outputs.
Source: Behrouz et al. 2025 (arXiv 2512.24695), eq. 56-57 and appendix C, for a batch.
"""

from __future__ import annotations

import math
import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nested.optim.base import INFINITY, MemoryOptimizer
from nested.optim.sharded import is_sharded

REDUCTIONS = ("mean", "sum")
COMPILED = (
    "DGD reads the inputs of layers by hooks, which a compiled module may skip: make the DGD first,"
    " and compile the module after that"
)
ONE_GRAPH = "DGD needs the inputs of each layer: compile without fullgraph=True"
WIDEST = 1024  # up to this width, the larger matrix is tried too if the smaller one fails
MIN_PIVOT = {torch.float32: 1e-2, torch.float64: 1e-6}  # share that must remain of a pivot
MAX_SHRINK = 10.0  # more shrinking than this costs float32 too many digits


class DGD(MemoryOptimizer):
    """Gradient descent whose weights also forget, in the directions of their current inputs.

    For the weight W (O, D) of each ``nn.Linear`` in ``module``, a step is the exact minimiser of

        1/N sum_i 1/2 |W x_i - u_i|^2 + 1/(2n) |W - W_t|^2        (eq. 56 for N rows)

    over the N rows x_i that the layer received since the last step. The target u_i is
    ``-N dL/dy_i`` for a loss that is a mean (``reduction="mean"``), and ``-dL/dy_i`` for a sum. For
    one row of norm 1 the step is eq. 57, ``W (I - n' x x^T) - n' g``, ``n' = n / (1 + n)``.

    The errors are read from ``W.grad``, as ``sum_i u_i x_i^T`` is -N times the gradient (-1 times
    for a sum). So gradients may be clipped and accumulated, and what a tied embedding adds counts
    as a plain gradient. The inputs are read by hooks. A forward pass counts once ``backward`` has
    gone through it: one under ``no_grad`` does not count, nor does one whose gradient comes from
    ``torch.autograd.grad``.

    Parameters other than weights of linear layers take plain gradient descent with the same ``lr``
    (n, at least 0). A warning names them once, except for biases. Rows are kept until ``step`` or
    ``zero_grad``, or until a backward pass starts with a gradient of ``None``. The hooks are
    removed with the optimizer, and do nothing in a copy of the module.

    Compile a module after its optimizer is made, and without ``fullgraph=True``. Under
    ``DistributedDataParallel`` a step uses the rows of all processes. It equals the step of one
    process on the loss that DDP minimises, the mean of all processes' losses.

    Raises ``ValueError`` for settings out of range, and for modules that are lazy, compiled or
    sharded. Raises ``TypeError`` when copied, since the hooks belong to one module.

    A limit: a step makes each layer's output equal -dL/dy. For logits under cross entropy that is
    smaller than 1, so the loss stays high for every ``lr``. The best step for each layer alone need
    not be good for the net.
    """

    ranges = {"lr": (0.0, INFINITY)}

    def __init__(
        self, params: Any, lr: float, *, module: nn.Module, reduction: str = "mean"
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"DGD needs a module, to read the inputs of its layers, but got {module!r}"
            )
        if any(map(nn.parameter.is_lazy, module.parameters())):
            raise ValueError("the module has lazy parameters: run a batch through it first")
        if any(map(_is_compiled, module.modules())):
            raise ValueError(COMPILED)
        self.mine: set[Tensor] = set()  # all parameters of the groups
        # rows since the last step, by weight and by forward pass, so that two backward passes
        # through one forward pass count its rows once
        self.rows: dict[Tensor, dict[object, Tensor]] = {}
        self.pending: dict[Tensor, tuple[int, dict[object, Tensor]]] = {}  # see ``note``
        self.reported: set[Tensor] = set()
        self.has_inputs = False  # whether any hook has run
        self.processes: Any = None  # the group whose gradients are averaged, under DDP
        self.names = {p: name for name, p in module.named_parameters()}
        super().__init__(params, {"lr": lr, "reduction": reduction})
        # not a weight that is computed at each pass, as by weight_norm: it is no parameter
        layers = [
            layer
            for layer in module.modules()
            if isinstance(layer, nn.Linear)
            and "weight" in dict(layer.named_parameters(recurse=False))
        ]
        self.biases = {layer.bias for layer in layers}
        self.weights = {layer.weight for layer in layers}
        handles: list[RemovableHandle] = []
        for layer in layers:
            watch = _Watch(weakref.ref(self), handles)
            handles.append(layer.register_forward_hook(watch, with_kwargs=True))
        weakref.finalize(self, _remove, handles).atexit = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.mine.update(self.param_groups[-1]["params"])

    def check_group(self, group: dict[str, Any]) -> None:
        super().check_group(group)
        if group["reduction"] not in REDUCTIONS:
            raise ValueError(f"reduction is one of {REDUCTIONS}, but got {group['reduction']!r}")
        if any(map(is_sharded, group["params"])):
            raise ValueError(
                "DGD takes no sharded weights, since no process has all inputs of a layer: use"
                " DistributedDataParallel"
            )

    # How rows and gradients stay in step. A forward hook (``_Watch``) puts a hook on the layer's
    # output, which runs when a backward pass reaches the output: ``note`` then holds the rows. A
    # hook on the weight runs after the pass has added the gradient to ``weight.grad``: ``keep``
    # then stores the rows. So rows are stored if and only if their gradient is. A pass that stops
    # before it reaches the weight leaves rows that were noted and not kept; the next pass drops
    # them. Autograd numbers its backward passes, and that number tells the passes apart.

    def note(self, weight: Tensor, rows: Tensor, forward_pass: object) -> None:
        """Hold the rows (N, D) until the backward pass reaches ``weight`` (O, D).

        If the gradient was set to ``None``, rows of earlier passes are dropped with it.
        """
        run = torch._C._current_graph_task_id()  # one number for each backward pass
        if weight not in self.pending or self.pending[weight][0] != run:
            self.pending[weight] = run, {}
            if weight.grad is None:
                self.rows.pop(weight, None)
        self.pending[weight][1][
            forward_pass
        ] = rows.clone()  # the caller may reuse the memory of the batch

    def keep(self, weight: Tensor) -> None:
        """Store the rows that were noted, after their gradient was added to ``weight`` (O, D)."""
        self.rows.setdefault(weight, {}).update(self.pending.pop(weight, (0, {}))[1])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients and their rows."""
        super().zero_grad(set_to_none)
        self.rows.clear()
        self.pending.clear()

    def move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, plain = group["lr"], []
        rows_of = {p: self._rows(p) for p in params}
        if self.processes is not None:
            is_mean = group["reduction"] == "mean"
            rows_of = _of_all_processes(rows_of, self.weights, self.processes, is_mean)
        is_sum = group["reduction"] == "sum"  # DDP divides the sum by the number of processes
        scale = self.processes.size() if is_sum and self.processes is not None else 1
        for p, inputs in rows_of.items():
            if inputs is None:
                p.add_(p.grad, alpha=-lr * scale)
                plain += [p] if p not in self.biases and p not in self.reported else []
                continue
            rate = lr * scale / max(len(inputs), 1) if is_sum else lr
            p.copy_(forget(p, inputs, lr, p.grad, rate))
        if plain:
            self.reported.update(plain)
            names = ", ".join(self.names.get(p, "a parameter outside the module") for p in plain)
            hint = "" if self.has_inputs else " (was the model compiled and run before its DGD?)"
            warnings.warn(
                f"DGD got no inputs of {names}: plain gradient descent{hint}", stacklevel=5
            )

    def _rows(self, p: Tensor) -> Tensor | None:
        """Return and drop the inputs (N, D) that ``p`` (O, D) received since the last step."""
        self.pending.pop(p, None)
        rows = self.rows.pop(p, None)
        return None if rows is None else torch.cat(list(rows.values()))

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a DGD cannot be copied or pickled: make a new one and load its state_dict")


class _Watch:
    """A forward hook that passes a layer's inputs to the optimizer.

    It does not keep the optimizer alive. A copy does nothing, as a copied module has no optimizer.
    """

    def __init__(
        self,
        reference: weakref.ref[DGD] | None = None,
        handles: list[RemovableHandle] | None = None,
    ) -> None:
        self.reference, self.handles = reference, handles
        self.hooked: set[Tensor] = set()  # weights that have the hook ``_keep``

    def __call__(
        self, layer: nn.Linear, args: tuple, kwargs: dict[str, Any], output: Tensor
    ) -> None:
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break(msg=ONE_GRAPH)
        optimizer, weight = self.reference and self.reference(), layer.weight
        if optimizer is None or weight not in optimizer.mine:
            return
        optimizer.has_inputs = True
        if output.requires_grad and weight.requires_grad:
            optimizer.processes = _processes_of_ddp()
            if weight not in self.hooked:
                self.hooked.add(weight)
                self.handles.append(weight.register_post_accumulate_grad_hook(self._keep))
            rows = (args[0] if args else kwargs["input"]).detach()
            rows = rows.flatten(0, -2) if rows.dim() > 1 else rows[None]  # (N, D)
            forward_pass = object()  # identifies this call
            output.register_hook(lambda _: optimizer.note(weight, rows, forward_pass))

    def _keep(self, weight: Tensor) -> None:
        if (optimizer := self.reference()) is not None:
            optimizer.keep(weight)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Watch, ()


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _processes_of_ddp() -> Any:
    """Return the process group of the ``DistributedDataParallel`` around this forward pass."""
    if not torch.distributed.is_available():
        return None
    ddp = nn.parallel.DistributedDataParallel._get_active_ddp_module()
    return None if ddp is None else ddp.process_group


def _of_all_processes(
    rows_of: dict[Tensor, Tensor | None], weights: set[Tensor], processes: Any, is_mean: bool
) -> dict[Tensor, Tensor | None]:
    """Gather the inputs (N, D) of each weight from all processes.

    If losses are means, DDP averages P of them, so each of a process's N_r rows has the weight
    ``1 / (P N_r)`` and not 1 / N. The rows are multiplied by the root of that ratio.
    """
    from torch import distributed

    for p in rows_of:
        if p in weights:
            mine = p.new_empty(0, p.shape[1]) if rows_of[p] is None else rows_of[p]
            counts = torch.empty(processes.size(), dtype=torch.int64, device=p.device)
            counts = list(counts.split(1))
            distributed.all_gather(counts, torch.full_like(counts[0], len(mine)), group=processes)
            most = max(map(int, counts))
            parts = [mine.new_empty(most, p.shape[1]) for _ in counts]
            padded = nn.functional.pad(mine, (0, 0, 0, most - len(mine)))
            distributed.all_gather(parts, padded, group=processes)
            parts = [part[:count] for part, count in zip(parts, counts) if count]
            if is_mean and parts:
                share = sum(map(len, parts)) / len(counts)
                parts = [part * math.sqrt(share / len(part)) for part in parts]
            rows_of[p] = torch.cat(parts) if parts else rows_of[p]
    return rows_of


def forget(
    weight: Tensor, inputs: Tensor, lr: float, grad: Tensor | None = None, rate: float = 0.0
) -> Tensor:
    """Compute ``(W - rate G) (I + n/N X^T X)^-1``, (O, D), the step of ``DGD``.

    W and its gradient G are (O, D), the N rows of inputs X are (N, D). The result has the dtype of
    W. Inputs that are NaN or infinite give NaN. Source: eq. 56.

    Three ways are tried, until rounding does no harm. First Cholesky's decomposition in the smaller
    of N and D; for N < D by Woodbury's identity, ``(I + n/N X^T X)^-1 = I - n/N X^T (I + n/N X
    X^T)^-1 X``. Then Cholesky in the other dimension. Last the slower ``X = U S V^T``: ``W - W V
    (n/N S^2 / (1 + n/N S^2)) V^T``. If float32 is too coarse, the CPU computes in float64, since
    not every device has it. Raises ``torch.linalg.LinAlgError`` if the last way does not converge.
    """
    grad = torch.zeros_like(weight) if grad is None else grad
    if not inputs.numel():
        return weight - rate * grad
    if weight.dtype != torch.float64:
        w, x = weight.float() - rate * grad.float(), inputs.float()
        solved = _by_cholesky(w, x, lr)
        if solved is not None and w.norm() <= MAX_SHRINK * solved.norm():
            return solved.to(weight.dtype)
        weight64, inputs, grad = (part.cpu().double() for part in (weight, inputs, grad))
    else:
        weight64 = weight
    w = weight64 - rate * grad
    x = inputs.to(w)
    solved = _by_cholesky(w, x, lr)
    if solved is None and x.isfinite().all():
        _, s, v = torch.linalg.svd(x * math.sqrt(lr / len(x)), full_matrices=False)
        solved = w - (w @ v.T * (s * s / (1 + s * s))) @ v
    if solved is None:
        solved = torch.full_like(w, math.nan)
    return solved.to(weight.dtype).to(weight.device)


def _by_cholesky(w: Tensor, x: Tensor, lr: float) -> Tensor | None:
    """Compute ``W (I + n/N X^T X)^-1``. Returns ``None`` if rounding would lose a pivot."""
    rate, (rows, width) = lr / len(x), x.shape
    smaller_is_rows = rows < width
    attempts = [smaller_is_rows, not smaller_is_rows] if width <= WIDEST else [smaller_is_rows]
    for by_rows in attempts:
        gram = rate * (x @ x.T if by_rows else x.T @ x)  # (N, N) or (D, D)
        gram.diagonal().add_(1)
        root, failed = torch.linalg.cholesky_ex(gram)
        remaining = (root.diagonal().square() / gram.diagonal()).amin()
        if remaining > MIN_PIVOT[w.dtype] and not failed:
            if by_rows:
                return w - rate * torch.cholesky_solve(x @ w.T, root).T @ x
            return torch.cholesky_solve(w.T, root).T
    return None
