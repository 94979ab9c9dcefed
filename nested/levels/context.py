"""The context: what level 4 sees of a run, after the gradient and before the update.

Source: gradients as logarithms after Andrychowicz et al. 2016 (arXiv 1606.04474), appendix A; the
cosine after Baydin et al. 2018 (arXiv 1703.04782): a product of successive gradients is the
hypergradient of one step's learning rate.

A feature is a function ``feature(*, loss, step, params, grads, buffer) -> Tensor ()``. ``loss`` and
``step`` (inner steps made so far) are (); ``params``, ``grads`` and ``buffer`` are {name: (...)}.
The features in ``FEATURES`` also take T tasks at once, with a leading T in every tensor. They have
no unit and at least float32, and are finite even if the loss is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nested.levels.forward import Params


def log_loss(*, loss: Tensor, **rest: Tensor | Params) -> Tensor:
    """Return log |loss|, ()."""
    return _finite_log(wide(loss).abs())


def log_step(*, step: Tensor, **rest: Tensor | Params) -> Tensor:
    """Return log(1 + step), ()."""
    return torch.log1p(wide(step))


def log_grad_norm(*, loss: Tensor, grads: Params, **rest: Tensor | Params) -> Tensor:
    """Return the logarithm, (), of the gradient's length over all parameters."""
    return _finite_log(torch.linalg.vector_norm(_flat(grads, loss), dim=-1))


def grad_cosine(*, loss: Tensor, grads: Params, buffer: Params, **rest: Tensor | Params) -> Tensor:
    """Return the cosine, (), of the angle between gradient and buffer; 0 while one is zero."""
    grad, past = _flat(grads, loss), _flat(buffer, loss)
    lengths = torch.linalg.vector_norm(grad, dim=-1) * torch.linalg.vector_norm(past, dim=-1)
    is_defined = (lengths > 0) & torch.isfinite(lengths)
    cosine = (grad * past).sum(-1) / torch.where(is_defined, lengths, 1.0)
    return torch.where(is_defined, cosine, 0.0)


class Feature(NamedTuple):
    """A feature, and its mean and spread in runs of the demo, which bring it to order one."""

    compute: Callable[..., Tensor]
    centre: float
    width: float


FEATURES = {  # a new one is one line here
    "log_loss": Feature(log_loss, 0.0, 1.5),
    "log_step": Feature(log_step, 2.5, 1.5),
    "log_grad_norm": Feature(log_grad_norm, 0.0, 1.5),
    "grad_cosine": Feature(grad_cosine, 0.0, 0.5),
}


def context_vector(features: tuple[str | Callable, ...], **inputs: Tensor | Params) -> Tensor:
    """Compute each feature of the current step and stack them into one vector.

    Returns (F,), or (T, F) when T tasks run side by side. A feature is a name in ``FEATURES``, or
    your own function of ``inputs``, which sees one task at a time.
    """
    values = []
    for feature in features:
        if isinstance(feature, str):
            values.append(FEATURES[feature].compute(**inputs))
        elif inputs["loss"].dim():
            one_task = torch.vmap(lambda task, f=feature: f(**task), randomness="different")
            values.append(wide(one_task(inputs)))
        else:
            values.append(wide(feature(**inputs)))
    return torch.stack(values, dim=-1)


def wide(x: Tensor) -> Tensor:
    """Return x (...) in at least float32: half precision is too coarse for logarithms."""
    return x if x.dtype == torch.float64 else x.float()


def _flat(tensors: Params, loss: Tensor) -> Tensor:
    """Join all tensors {name: (...)} to one vector (N,), or (T, N) where ``loss`` is (T,)."""
    return torch.cat([wide(x).reshape(*loss.shape, -1) for x in tensors.values()], dim=-1)


def _finite_log(x: Tensor) -> Tensor:
    return torch.log(torch.nan_to_num(x, nan=1.0).clamp(min=1e-12))
