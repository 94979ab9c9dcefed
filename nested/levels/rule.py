"""Level 4's contract: what an update rule is, and what it may see.

Source: learned update rules after Andrychowicz et al. 2016 (arXiv 1606.04474), whose appendix A
gives gradients as logarithms; the cosine after Baydin et al. 2018 (arXiv 1703.04782): a product of
successive gradients is the hypergradient of one step's learning rate.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nested.levels.forward import Params, State


class Step(NamedTuple):
    """What a rule returns, all in the graph: the next weights, {name: (...)} as they came; the next
    state; and the signals it chose, {name: (...)}, to be shown and recorded."""

    params: Params
    state: State
    signals: dict[str, Tensor]


class UpdateRule(nn.Module):
    """Level 4: decides how the weights move. Its own parameters are what meta-training learns.

    A rule is *pure*: ``forward`` changes none of its arguments and hides nothing in the module, so
    that K moves can be differentiated, batched over tasks with ``torch.vmap``, and carried on.
    """

    def init(self, params: Params) -> State:
        """Return the state before the first step: nested dicts of tensors of any shapes, on the
        device of ``params`` {name: (...)}. Raises ``NotImplementedError`` where a rule lacks it."""
        raise NotImplementedError

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        """Make one move. ``grads`` is named and shaped as ``params`` {name: (...)}; ``loss``, (),
        was taken at ``params``. Returns a ``Step`` whose params and state keep names, shapes and
        dtypes. Raises ``NotImplementedError`` where a rule lacks it."""
        raise NotImplementedError


class Context(NamedTuple):
    """What level 4 sees, pure numbers without a unit, () each or (T,) for T tasks, finite for any
    input; ``None`` for a feature not asked for."""

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
    (...)}, named alike; ``total_steps`` (inner steps) is for ``progress``. Each feature is a scalar
    of at least float32, finite even where loss or gradients are not (a NaN reads as 0). Raises
    ``TypeError`` for ``progress`` without ``total_steps``.
    """
    features = {}
    if "log_loss" in names:
        features["log_loss"] = _finite_log(_wide(loss).abs())
    if "log_step" in names:
        features["log_step"] = torch.log1p(_wide(step))
    if "progress" in names:
        features["progress"] = _wide(step) / total_steps
    if "log_grad_norm" in names or "grad_cosine" in names:
        grad = torch.cat([_wide(g).flatten() for g in grads.values()])
        grad_norm = torch.linalg.vector_norm(grad)
        if "log_grad_norm" in names:
            features["log_grad_norm"] = _finite_log(grad_norm)
        if "grad_cosine" in names:
            past = torch.cat([_wide(v).flatten() for v in buffer.values()])
            lengths = grad_norm * torch.linalg.vector_norm(past)
            defined = (lengths > 0) & torch.isfinite(lengths)
            cosine = (grad * past).sum() / torch.where(defined, lengths, 1.0)
            features["grad_cosine"] = torch.where(defined, cosine, 0.0)
    return Context(**features)


def _wide(x: Tensor) -> Tensor:
    """At least float32: half precision is too coarse for logarithms."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _finite_log(x: Tensor) -> Tensor:
    tiny, huge = 1e-12, torch.finfo(x.dtype).max
    return torch.log(torch.nan_to_num(x, nan=1.0).clamp(tiny, huge))
