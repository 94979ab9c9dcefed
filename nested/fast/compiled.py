"""The same K steps, compiled: windows of a few steps become one program each.

The inner gradient is taken inside the program, written out or by ``torch.func``: a derivative of a
derivative does not cross the boundary of ``torch.compile``. The outer backward pass is compiled
with it. Source: ``torch.compile``; the traps are those of its issue tracker.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.lend import Lender
from nested.levels.rule import UpdateRule
from nested.unroll.eager import unroll_eager
from nested.unroll.trajectory import Trajectory, join, stack_trajectory
from nested.unroll.transforms import gradient_by_func

WINDOW = 4  # steps in a program: longer ones gain little and take long to compile
PROGRAMS = 64  # kept at once: one for each shape, rule and loss


def unroll_compiled(
    loss_fn: LossFn,
    params: Params,
    batches: Sequence[Batch],
    rule: UpdateRule,
    state: State,
    *,
    differentiable: bool = True,
    first_order: bool = False,
    time_dim: int = 0,
) -> Trajectory:
    """As ``unroll_eager``, for losses and rules that ``torch.compile`` can read; for others, and
    where there is no compiler, one warning and ``unroll_eager`` itself.

    The first call of a kind takes its time; the programs are kept on disk by PyTorch. Steps beyond
    the last whole window are made by ``unroll_eager``. Returns losses (K,), or (T, K) with
    ``time_dim=1``; raises what ``unroll_eager`` raises.
    """
    options = {"differentiable": differentiable, "first_order": first_order, "time_dim": time_dim}
    roll_out = {**options, "differentiable": False}
    whole, parts, now = len(batches) // WINDOW * WINDOW, [], (params, state)
    program = _program(on_gpu=next(iter(params.values())).is_cuda)
    if whole:  # wrong parts are refused in eager's words
        unroll_eager(loss_fn, params, batches[:1], rule, state, **roll_out)
    try:
        with (
            torch._dynamo.config.patch(recompile_limit=PROGRAMS),
            torch.set_grad_enabled(differentiable),
            _without_checks(),
        ):
            for at in range(0, whole, WINDOW):
                start, memory = _with_graph(now) if differentiable else now
                window = list(batches[at : at + WINDOW])
                parts.append(program(loss_fn, start, window, rule, memory, first_order, time_dim))
                now = parts[-1].params, parts[-1].state
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"torch.compile failed, so the eager backend is used: {reason}", stacklevel=3)
        return unroll_eager(loss_fn, params, batches, rule, state, **options)
    if whole < len(batches):
        parts.append(unroll_eager(loss_fn, now[0], batches[whole:], rule, now[1], **options))
    return join(parts, time_dim)


def _window(
    loss_fn: LossFn,
    params: Params,
    batches: list[Batch],
    rule: UpdateRule,
    state: State,
    first_order: bool,
    time_dim: int,
) -> Trajectory:
    """What is compiled: ``unroll_eager``'s loop, its gradients written out or by ``torch.func``."""
    losses, signals = [], []
    for batch in batches:
        pair = loss_fn.with_gradient(params, batch) if hasattr(loss_fn, "with_gradient") else None
        loss, grads = pair or gradient_by_func(loss_fn, params, batch, time_dim)
        if first_order:
            grads = {name: g.detach() for name, g in grads.items()}
        params, state, chosen = rule(params, grads, state, loss)
        losses.append(loss)
        signals.append(chosen)
    return stack_trajectory(params, state, losses, signals, time_dim)


def _program(on_gpu: bool) -> Callable[..., Trajectory]:
    """Return the compiled window. On a GPU it is launched as one CUDA graph."""
    if not on_gpu:
        return _compiled()
    torch.compiler.cudagraph_mark_step_begin()  # memory of earlier unrolls may be used again

    def launched(*arguments: Any) -> Trajectory:
        end = _compiled(mode="reduce-overhead")(*arguments)
        return tree_map_only(Tensor, Tensor.clone, end)  # the next launch overwrites its memory

    return launched


@cache
def _compiled(mode: str | None = None) -> Callable[..., Trajectory]:
    """Made at its first use: to import the compiler takes as long as to import torch."""
    return torch.compile(_window, fullgraph=True, dynamic=False, mode=mode)


@contextmanager
def _without_checks() -> Iterator[None]:
    """Let losses skip their checks of the model: one eager step has made them, and a traced model
    has no versions to compare."""
    Lender.checks = False
    try:
        yield
    finally:
        Lender.checks = True


def _with_graph(tree: Any) -> Any:
    """All floats ask for a gradient, in the first window as in later ones: one program for all."""

    def ask(x: Tensor) -> Tensor:
        return x.detach().requires_grad_() if x.is_floating_point() and not x.requires_grad else x

    return tree_map_only(Tensor, ask, tree)
