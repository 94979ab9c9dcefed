"""Level 1: a forward pass and its loss, as a pure function of the weights.

State: none.  It sees: one batch.  Clock: every batch.
Source: ``torch.func.functional_call``, PyTorch's way to lend a module other weights.

A ``torch.nn.Module`` hides its weights. The levels above need them as an argument, so that they can
differentiate with respect to it. ``functional_loss`` turns the one form into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from nested.levels.lend import Lender

Params = dict[str, Tensor]  # as dict(model.named_parameters()) gives
State = Any  # a nested dict or tuple of tensors
Batch = Any  # a nested dict or tuple of tensors; functional_loss takes (inputs, targets)
LossFn = Callable[[Params, Batch], Tensor]  # it may offer with_gradient, see unroll/gradient.py
Criterion = Callable[[Any, Any], Tensor]


def functional_loss(model: nn.Module, criterion: Criterion | None = None) -> LossFn:
    """Turn a model and a criterion into ``loss_fn(params, batch) -> loss``, a pure function.

    ``params`` is {name: (...)}, with the names and shapes of ``model.named_parameters()``. The
    loss, (), is ``criterion(model(inputs), targets)``. A batch is a pair ``(inputs, targets)``, or
    a dict with the key "targets" whose other entries are the inputs. A tuple or list of inputs is
    passed as ``model(*inputs)``, a dict as ``model(**inputs)``. Without a criterion the whole batch
    is the inputs, and the model returns its own loss: a scalar, or an output with ``loss`` in it.

    The model, its buffers and the batch are never changed. Parameters with ``requires_grad=False``
    when this function is called are frozen. They are constants, and ``params`` may leave them out.
    ``loss_fn.model`` and ``loss_fn.criterion`` keep the two arguments, and ``loss_fn.frozen`` the
    names of the frozen parameters.

    ``loss_fn`` raises ``TypeError`` when ``params`` is no dict or the model returns no loss. It
    raises ``ValueError`` when names are not the model's, and when a batch is not as above. So does
    a model that writes to its weights or buffers, as BatchNorm does in train mode. A shape or dtype
    that does not match raises PyTorch's own ``RuntimeError``.

    >>> import torch
    >>> loss_fn = functional_loss(nn.Linear(2, 1, bias=False), nn.functional.mse_loss)
    >>> loss_fn({"weight": torch.ones(1, 2)}, (torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0]])))
    tensor(4.)
    """
    return FunctionalLoss(model, criterion)


class FunctionalLoss:
    """What ``functional_loss`` returns."""

    def __init__(self, model: nn.Module, criterion: Criterion | None) -> None:
        self.model, self.criterion = model, criterion
        parameters = dict(model.named_parameters())
        self.names = set(parameters)
        self.frozen = {name for name, p in parameters.items() if not p.requires_grad}
        self.lender = Lender(model)

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return the loss, (), of ``batch`` at the weights ``params`` {name: (...)}."""
        if not isinstance(params, dict):
            raise TypeError(f"params is a dict of tensors, but got {type(params).__name__}")
        missing, unknown = self.names - self.frozen - params.keys(), params.keys() - self.names
        if missing or unknown:
            raise ValueError(
                f"params do not match the model: missing {sorted(missing)}, unknown"
                f" {sorted(unknown)}; pass dict(model.named_parameters())"
            )
        weights = {n: p.detach() if n in self.frozen else p for n, p in params.items()}
        return loss_of(lambda *a, **k: self.lender(weights, a, k), self.criterion, batch)


def loss_of(forward: Callable[..., Any], criterion: Criterion | None, batch: Batch) -> Tensor:
    """Compute the loss, (), of one batch: ``forward`` gets its inputs, ``criterion`` the targets.

    See ``functional_loss`` for the forms of a batch. Raises ``ValueError`` for another form, and
    ``TypeError`` where ``forward`` has to return a loss and does not.
    """
    if criterion is None:
        return _own_loss(_call(forward, batch))
    if isinstance(batch, dict) and "targets" in batch:
        inputs = {name: part for name, part in batch.items() if name != "targets"}
        return criterion(forward(**inputs), batch["targets"])
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        raise ValueError(
            "a batch is a pair (inputs, targets), or a dict with the key 'targets', but got"
            f" {type(batch).__name__}"
        )
    return criterion(_call(forward, batch[0]), batch[1])


def _call(forward: Callable[..., Any], inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return forward(**inputs)
    return forward(*inputs) if isinstance(inputs, (tuple, list)) else forward(inputs)


def _own_loss(outputs: Any) -> Tensor:
    if isinstance(outputs, Mapping):
        outputs = outputs.get("loss")
    loss = getattr(outputs, "loss", outputs)
    if not isinstance(loss, Tensor):
        raise TypeError(
            "without a criterion the model returns its own loss, or an output with a loss in it,"
            f" but got {type(loss).__name__}: pass a criterion"
        )
    return loss
