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
from torch.utils.hooks import RemovableHandle

from nested.optim.base import INFINITY, MemoryOptimizer
from nested.optim.sharded import is_sharded

REDUCTIONS = ("mean", "sum")
COMPILED = (
    "DGD watches layers by hooks, which a compiled module may skip: give it the module as it is,"
    " and compile the module after that"
)
ONE_GRAPH = "DGD must see the inputs of each layer: compile without fullgraph=True"
WIDEST = 1024  # columns of a matrix that is tried although there are fewer rows
LEAST = {torch.float32: 1e-2, torch.float64: 1e-6}  # share of a pivot that must be left
MOST = 10.0  # times what comes out may go in: float32 would lose more digits


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
    Hooks go when the optimizer goes, and a copy of the module has none that act.

    Compile a module after its optimizer is made, and not to one graph. Under
    ``DistributedDataParallel`` a step takes the rows of all processes: it is the step of one
    process on what DDP lowers, the mean over processes of their losses.

    Raises ``ValueError`` for settings out of range, and for modules that are lazy, compiled or
    sharded; ``TypeError`` when copied, since the hooks belong to one module.

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
        if any(map(_is_compiled, module.modules())):
            raise ValueError(COMPILED)
        self.mine: set[Tensor] = set()  # all parameters of the groups
        # of each weight, since its last step, by forward pass: two backward passes count it once
        self.rows: dict[Tensor, dict[object, Tensor]] = {}
        self.pending: dict[Tensor, tuple[int, dict[object, Tensor]]] = {}  # of one backward pass
        self.reported: set[Tensor] = set()
        self.has_seen = False  # any input of any layer
        self.processes: Any = None  # the group whose gradients are averaged, under DDP
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
                "DGD takes no sharded weights, since no process sees all inputs of a layer: use"
                " DistributedDataParallel"
            )

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
        rows_of = {p: self._rows(p) for p in params}
        if self.processes is not None:
            is_mean = group["reduction"] == "mean"
            rows_of = _of_all_processes(rows_of, self.weights, self.processes, is_mean)
        is_sum = group["reduction"] == "sum"  # which DDP divides by the number of processes
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
            hint = "" if self.has_seen else " (was the model compiled and run before its DGD?)"
            warnings.warn(
                f"DGD saw no inputs of {names}: plain gradient descent{hint}", stacklevel=5
            )

    def _rows(self, p: Tensor) -> Tensor | None:
        """The inputs (N, D) that ``p`` (O, D) met since the last step, which are then forgotten."""
        self.pending.pop(p, None)
        rows = self.rows.pop(p, None)
        return None if rows is None else torch.cat(list(rows.values()))

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a DGD cannot be copied or pickled: make a new one and load its state_dict")


class _Watch:
    """A forward hook that tells the optimizer of a layer's inputs. It does not keep the optimizer
    alive, and a copy of it does nothing: the module that was copied has no optimizer."""

    def __init__(
        self,
        reference: weakref.ref[DGD] | None = None,
        handles: list[RemovableHandle] | None = None,
    ) -> None:
        self.reference, self.handles = reference, handles
        self.known: set[Tensor] = set()  # weights that have a hook of ours

    def __call__(
        self, layer: nn.Linear, args: tuple, kwargs: dict[str, Any], output: Tensor
    ) -> None:
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break(msg=ONE_GRAPH)
        optimizer, weight = self.reference and self.reference(), layer.weight
        if optimizer is None or weight not in optimizer.mine:
            return
        optimizer.has_seen = True
        if output.requires_grad and weight.requires_grad:
            optimizer.processes = _processes_of_ddp()
            if weight not in self.known:
                self.known.add(weight)
                self.handles.append(weight.register_post_accumulate_grad_hook(self._keep))
            seen = (args[0] if args else kwargs["input"]).detach()
            seen = seen.flatten(0, -2) if seen.dim() > 1 else seen[None]  # (N, D)
            this = object()
            output.register_hook(lambda _: optimizer.note(weight, seen, this))

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
    """The process group of the ``DistributedDataParallel`` that makes this forward pass, if any."""
    if not torch.distributed.is_available():
        return None
    ddp = nn.parallel.DistributedDataParallel._get_active_ddp_module()
    return None if ddp is None else ddp.process_group


def _of_all_processes(
    rows_of: dict[Tensor, Tensor | None], weights: set[Tensor], processes: Any, is_mean: bool
) -> dict[Tensor, Tensor | None]:
    """The inputs (N, D) that each of these weights met in any process, one after another.

    Where losses are means, DDP takes the mean of P of them, and a process's N_r rows weigh
    ``1 / (P N_r)`` each, not 1 / N: they are multiplied by the root of the ratio.
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
    """Return ``(W - rate G) (I + n/N X^T X)^-1``, (O, D), for a weight W and its gradient G, both
    (O, D), and N rows of inputs X (N, D), in the dtype of W.

    Float32 serves where rounding does no harm. Otherwise, and for W in float64, it is float64, on
    the CPU for other weights, since some devices have none. Cholesky's decomposition solves it in
    the smaller of N and D; for N < D by Woodbury's identity, ``(I + n/N X^T X)^-1 = I - n/N X^T (I
    + n/N X X^T)^-1 X``. Where rounding would swallow a pivot, the other dimension is tried, and
    then ``X = U S V^T``: ``W - W V (n/N S^2 / (1 + n/N S^2)) V^T``, which takes longer. Inputs that
    are no numbers give none. Source: eq. 56. Raises ``torch.linalg.LinAlgError`` should the last
    not converge.
    """
    if not inputs.numel():
        return weight if grad is None else weight - rate * grad
    parts = [weight, inputs] if grad is None else [weight, inputs, grad]
    if weight.dtype != torch.float64:
        w, x, *g = (part.float() for part in parts)
        w = w - rate * g[0] if g else w
        found = _by_cholesky(w, x, lr)
        if found is not None and w.norm() <= MOST * found.norm():
            return found.to(weight.dtype)
        parts = [part.cpu().double() for part in parts]
    w, x, *g = parts
    w, x = w - rate * g[0] if g else w, x.to(w)
    found = _by_cholesky(w, x, lr)
    if found is None and x.isfinite().all():
        _, s, v = torch.linalg.svd(x * math.sqrt(lr / len(x)), full_matrices=False)
        found = w - (w @ v.T * (s * s / (1 + s * s))) @ v
    if found is None:
        found = torch.full_like(w, math.nan)
    return found.to(weight.dtype).to(weight.device)


def _by_cholesky(w: Tensor, x: Tensor, lr: float) -> Tensor | None:
    """``W (I + n/N X^T X)^-1``, or nothing where rounding would swallow a pivot."""
    rate, (rows, width) = lr / len(x), x.shape
    for is_by_row in (width > rows, width <= rows)[: 1 + (width <= WIDEST)]:
        gram = rate * (x @ x.T if is_by_row else x.T @ x)
        gram.diagonal().add_(1)
        root, failed = torch.linalg.cholesky_ex(gram)
        left = (root.diagonal().square() / gram.diagonal()).amin()
        if left > LEAST[w.dtype] and not failed:
            if is_by_row:
                return w - rate * torch.cholesky_solve(x @ w.T, root).T @ x
            return torch.cholesky_solve(w.T, root).T
    return None
