"""Level 1: a forward pass and its loss, as a pure function of the weights.

State: none of its own.  It sees: one batch.  Clock: every batch.
Source: ``torch.func.functional_call``, PyTorch's way to lend a module other weights.

A ``torch.nn.Module`` hides its weights; the levels above need them in the open, as an argument to
differentiate with respect to. ``functional_loss`` turns the one into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import ref

from torch import Tensor, nn

from nested.support.lend import Lender, unchanged

Params = dict[str, Tensor]  # as dict(model.named_parameters()) gives
State = Any  # a nested dict/tuple of tensors
Batch = Any  # a nested dict/tuple of tensors; functional_loss takes (inputs, targets)
LossFn = Callable[[Params, Batch], Tensor]


def functional_loss(
    model: nn.Module, criterion: Callable[[Any, Any], Tensor] | None = None
) -> LossFn:
    """Return ``loss_fn(params, batch) -> scalar``, a pure function of ``params``.

    ``params`` is {name: (...)}, shaped as the model's own. The loss, (), is ``criterion(model(
    inputs), targets)``, in the criterion's unit (nats for cross entropy). A batch is a pair
    ``(inputs, targets)``, or a dict with the key "targets" whose other entries are the inputs. A
    tuple or list of inputs is passed as ``model(*inputs)``, a dict as ``model(**inputs)``. Without
    a criterion the whole batch is the inputs, and the model returns its own loss: a scalar, or an
    output with ``loss`` in it.

    The model, its buffers and the batch are never changed. Parameters with ``requires_grad=False``
    when this function is called are frozen: constants, which may be left out of ``params``.
    ``loss_fn.model`` and ``loss_fn.criterion`` keep the two arguments, ``loss_fn.frozen`` the names
    of the frozen ones.

    ``loss_fn`` raises ``TypeError`` when ``params`` is no dict or the model returns no loss, and
    ``ValueError`` when the names are not the model's, when a batch is not as above, and when the
    model writes to its weights or buffers (BatchNorm in train mode): a pure function has nowhere to
    keep what was written. Shapes and dtypes that do not match raise PyTorch's own ``RuntimeError``.

    >>> import torch
    >>> loss_fn = functional_loss(nn.Linear(2, 1, bias=False), nn.functional.mse_loss)
    >>> loss_fn({"weight": torch.ones(1, 2)}, (torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0]])))
    tensor(4.)
    """
    names = {name for name, _ in model.named_parameters()}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    lender = Lender(model)

    def loss_fn(params: Params, batch: Batch) -> Tensor:
        if not isinstance(params, dict):
            raise TypeError(f"params is a dict of tensors, but got {type(params).__name__}")
        if params.keys() != names:
            _check_names(params, names, frozen)
        weights = {n: p.detach() if n in frozen else p for n, p in params.items()}
        with unchanged(lender.modules.values()):
            return loss_of(lambda *a, **k: lender(weights, a, k), criterion, batch)

    loss_fn.model = model
    loss_fn.criterion = criterion
    loss_fn.frozen = frozen
    loss_fn.itself = ref(loss_fn)
    return loss_fn


def loss_of(
    forward: Callable[..., Any], criterion: Callable[[Any, Any], Tensor] | None, batch: Batch
) -> Tensor:
    """Compute the loss, (), of one batch: ``forward`` gets its inputs, ``criterion`` the targets.

    See ``functional_loss`` for what a batch may be. Raises ``ValueError`` for another batch, and
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


def is_functional_loss(loss_fn: LossFn) -> bool:
    """Whether ``functional_loss`` made this very function: a wrapper around it may carry the same
    attributes. Raises nothing."""
    itself = getattr(loss_fn, "itself", None)
    return isinstance(itself, ref) and itself() is loss_fn


def _check_names(params: Params, names: set[str], frozen: set[str]) -> None:
    missing, unknown = sorted(names - frozen - params.keys()), sorted(params.keys() - names)
    if missing or unknown:
        raise ValueError(
            f"params do not match the model: missing {missing}, unknown {unknown};"
            " pass dict(model.named_parameters())"
        )
