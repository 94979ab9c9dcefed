"""The context: what level 4 may see of a run, after the gradient and before the update.

Source: gradients as logarithms after Andrychowicz et al. 2016 (arXiv 1606.04474), appendix A; the
cosine after Baydin et al. 2018 (arXiv 1703.04782): a product of successive gradients is the
hypergradient of one step's learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nested.levels.forward import Params

# (centre, width) of each feature over a typical run, to bring all of them to order one
SCALES = {
    "log_loss": (0.0, 1.5),
    "log_step": (2.5, 1.5),
    "log_grad_norm": (0.0, 1.5),
    "grad_cosine": (0.0, 0.5),
}


class Context(NamedTuple):
    """What level 4 sees of one task: numbers without a unit, () each, finite for any loss,
    gradients and buffer; ``None`` for a feature not asked for."""

    log_loss: Tensor | None = None  # log |loss|
    log_step: Tensor | None = None  # log(1 + inner step), steps counted from 0
    log_grad_norm: Tensor | None = None  # log of the gradient's length over all parameters
    grad_cosine: Tensor | None = None  # of the angle between gradient and buffer; 0 at first
    progress: Tensor | None = None  # inner step / total steps: only for rules told the total


def observe(
    names: tuple[str, ...],
    *,
    loss: Tensor,
    step: Tensor,
    grads: Params,
    buffer: Params,
    total_steps: int | None = None,
) -> Context:
    """Compute the features in ``names``: after the gradient, before the update.

    ``loss`` and ``step`` (inner steps made so far) are (); ``grads`` and ``buffer`` are {name:
    (...)}, named alike; ``total_steps`` (inner steps) is for ``progress``. Of T tasks, all have a
    leading T. Each feature is shaped as the loss, of at least float32, and finite even where loss
    or gradients are not (a NaN reads as 0). Raises ``ValueError`` for a name that ``Context``
    lacks, ``TypeError`` for ``progress`` without ``total_steps``.
    """
    if not set(names) <= set(Context._fields):
        raise ValueError(f"features are among {Context._fields}, but got {names}")
    features = {}
    if "log_loss" in names:
        features["log_loss"] = _finite_log(_wide(loss).abs())
    if "log_step" in names:
        features["log_step"] = torch.log1p(_wide(step))
    if "progress" in names:
        features["progress"] = _wide(step) / total_steps
    if "log_grad_norm" in names or "grad_cosine" in names:
        grad = _in_a_row(grads, loss.shape)
        grad_norm = torch.linalg.vector_norm(grad, dim=-1)
        if "log_grad_norm" in names:
            features["log_grad_norm"] = _finite_log(grad_norm)
        if "grad_cosine" in names:
            past = _in_a_row(buffer, loss.shape)
            lengths = grad_norm * torch.linalg.vector_norm(past, dim=-1)
            defined = (lengths > 0) & torch.isfinite(lengths)
            cosine = (grad * past).sum(-1) / torch.where(defined, lengths, 1.0)
            features["grad_cosine"] = torch.where(defined, cosine, 0.0)
    return Context(**features)


def look(context: tuple[str | Callable, ...], *, params: Params, **seen: Tensor | Params) -> Tensor:
    """Return the features in ``context``, (features,), or (T, features) of T tasks: names of
    ``observe``, which takes ``seen``, or functions of ``params`` {name: (...)} and ``seen`` for one
    task, as ``nested.conformance.check_context`` describes them. Raises what they raise."""

    def of_tasks(function: Callable) -> Tensor:
        given = {**seen, "params": params}
        if not seen["loss"].dim():
            return function(**given)
        return torch.vmap(lambda one: function(**one), randomness="different")(given)

    named = observe(tuple(f for f in context if isinstance(f, str)), **seen)
    features = [getattr(named, f) if isinstance(f, str) else _wide(of_tasks(f)) for f in context]
    return torch.stack(features, dim=-1)


def _in_a_row(tensors: Params, tasks: torch.Size) -> Tensor:
    return torch.cat([_wide(x).reshape(*tasks, -1) for x in tensors.values()], dim=-1)


def _wide(x: Tensor) -> Tensor:
    """At least float32: half precision is too coarse for logarithms."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _finite_log(x: Tensor) -> Tensor:
    return torch.log(torch.nan_to_num(x, nan=1.0).clamp(min=1e-12))
