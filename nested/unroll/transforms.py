"""The inner gradient by ``torch.func``: inside its transforms ``torch.autograd.grad`` fails.

Letters: T tasks. Source: ``torch.func.grad_and_value``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value
from torch.nn.functional import mse_loss
from torch.overrides import TorchFunctionMode

from nested.levels.forward import Batch, LossFn, Params
from nested.unroll.inputs import check_loss


class InTransform:
    """A loss for use inside ``torch.func.grad``, ``jvp``, ``vmap`` or forward-mode differentiation.

    It offers ``with_gradient``; see ``nested.unroll.gradient``. ``dims`` is 1 for the losses (T,)
    of T tasks, else 0.
    """

    def __init__(self, loss_fn: LossFn, dims: int = 0) -> None:
        self.loss_fn, self.dims = loss_fn, dims

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return the loss, () or (T,), of ``batch`` at ``params`` {name: (...)}."""
        return self.loss_fn(params, batch)

    def with_gradient(self, params: Params, batch: Batch) -> tuple[Tensor, Params]:
        """Return the loss, () or (T,), and its gradient {name: (...)}."""
        with _ForwardMode():
            return gradient_by_func(self.loss_fn, params, batch, self.dims)


def gradient_by_func(
    loss_fn: LossFn, params: Params, batch: Batch, dims: int = 0
) -> tuple[Tensor, Params]:
    """Compute the loss, () or with ``dims=1`` (T,), and its gradient {name: (...)}.

    Works inside the transforms of ``torch.func`` and inside a compiled program.
    """

    def total(points: Params) -> tuple[Tensor, Tensor]:
        loss = loss_fn(points, batch)
        check_loss(loss, dims)
        return loss.sum(), loss

    with torch.enable_grad():
        grads, (_, loss) = grad_and_value(total, has_aux=True)(params)
    return loss, grads


class _ForwardMode(TorchFunctionMode):
    """Writes ``mse_loss`` out: PyTorch's own gradient of it fails in forward mode."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = {name: value for name, value in (kwargs or {}).items() if value is not None}
        if function is not mse_loss or kwargs.keys() - {"reduction"} or len(args) != 2:
            return function(*args, **kwargs)
        errors = (args[0] - args[1]).square()
        reduction = kwargs.get("reduction", "mean")
        return errors if reduction == "none" else getattr(errors, reduction)()
