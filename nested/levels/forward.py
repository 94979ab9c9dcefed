"""Level 1: a forward pass and its loss, as a pure function of the weights.

State: none of its own.  It sees: one batch.  Clock: every batch.
Source: ``torch.func.functional_call``, PyTorch's way to lend a module other weights.

A ``torch.nn.Module`` hides its weights; the levels above need them in the open, as an argument to
differentiate with respect to. ``functional_loss`` turns the one into the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.func import functional_call

Params = dict[str, Tensor]  # as dict(model.named_parameters()) gives
State = Any  # a nested dict/tuple of tensors
Batch = Any  # a nested dict/tuple of tensors; functional_loss takes (inputs, targets)
LossFn = Callable[[Params, Batch], Tensor]


def functional_loss(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> LossFn:
    """Return ``loss_fn(params, batch) -> scalar``, a pure function of ``params``.

    ``params`` is {name: (...)}, shaped as the model's own; ``batch`` is ``(inputs, targets)``, any
    shapes that ``model`` and ``criterion`` take. The loss, (), is ``criterion(model(inputs),
    targets)``, in the criterion's unit (nats for cross entropy). The model is never changed: it
    lends its code, its buffers (used as they are) and its frozen parameters
    (``requires_grad=False`` when this function is called), which are constants: they may be left
    out of ``params`` and get a zero gradient when passed. ``loss_fn.model`` and
    ``loss_fn.criterion`` keep the two arguments, ``loss_fn.frozen`` the names of the frozen ones.

    ``loss_fn`` raises ``TypeError`` when ``params`` is no dict, and ``ValueError`` when its names
    are not the model's, when ``batch`` is not a pair, and when the model writes to its buffers
    (BatchNorm in train mode): a pure function has nowhere to keep what was written. Shapes and
    dtypes that do not match raise PyTorch's own ``RuntimeError``.

    >>> import torch
    >>> loss_fn = functional_loss(nn.Linear(2, 1, bias=False), nn.functional.mse_loss)
    >>> loss_fn({"weight": torch.ones(1, 2)}, (torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0]])))
    tensor(4.)
    """
    names = {name for name, _ in model.named_parameters()}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}

    def loss_fn(params: Params, batch: Batch) -> Tensor:
        if not isinstance(params, dict):
            raise TypeError(f"params is a dict of tensors, but got {type(params).__name__}")
        if params.keys() != names:
            _check_names(params, names, frozen)
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ValueError(f"a batch is a pair (inputs, targets), but got {type(batch).__name__}")
        inputs, targets = batch
        weights = {n: p.detach() if n in frozen else p for n, p in params.items()}
        return criterion(_forward(model, weights, inputs), targets)

    loss_fn.model = model
    loss_fn.criterion = criterion
    loss_fn.frozen = frozen
    loss_fn.itself = ref(loss_fn)
    return loss_fn


def is_functional_loss(loss_fn: LossFn) -> bool:
    """Whether ``functional_loss`` made this very function: a wrapper around it may carry the same
    attributes. Raises nothing."""
    itself = getattr(loss_fn, "itself", None)
    return isinstance(itself, ref) and itself() is loss_fn


def _forward(model: nn.Module, weights: Params, inputs: Tensor) -> Tensor:
    buffers = dict(model.named_buffers())
    if not buffers or torch.compiler.is_compiling():  # what follows was looked at before compiling
        return functional_call(model, {**weights, **buffers}, (inputs,))
    for name, module in model.named_modules():
        if getattr(module, "track_running_stats", False) and module.training:
            raise ValueError(_writes_buffers(f"{type(module).__name__} {name!r} in train mode"))
    lent = {name: buffer.clone() for name, buffer in buffers.items()}  # a write spoils only these
    state = {**weights, **lent}
    outputs = functional_call(model, state, (inputs,))
    for name, buffer in lent.items():
        if state[name] is not buffer or buffer._version:  # functional_call hands reassignments back
            raise ValueError(_writes_buffers(f"the model, to buffer {name!r},"))
    return outputs


def _writes_buffers(who: str) -> str:
    return (
        f"{who} writes to its buffers in the forward pass, and a pure loss has nowhere to keep"
        " them: call model.eval(), or use a layer without running statistics (GroupNorm)"
    )


def _check_names(params: Params, names: set[str], frozen: set[str]) -> None:
    missing, unknown = sorted(names - frozen - params.keys()), sorted(params.keys() - names)
    if missing or unknown:
        raise ValueError(
            f"params do not match the model: missing {missing}, unknown {unknown};"
            " pass dict(model.named_parameters())"
        )
