"""What can be wrong with the parts of an unroll, said in one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nested.levels.forward import Batch, Params
from nested.levels.rule import Step, UpdateRule


def check_inputs(params: Params, batches: Sequence[Batch], rule: UpdateRule) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless these can start an unroll."""
    if not isinstance(rule, UpdateRule):
        raise TypeError(f"rule must be an UpdateRule, but got {type(rule).__name__}")
    if not isinstance(params, dict) or not params:
        raise TypeError(
            f"params is a dict of tensors that is not empty, but got {type(params).__name__};"
            " pass dict(model.named_parameters())"
        )
    if not isinstance(batches, list):
        hint = "; wrap a single (inputs, targets) in a list" if isinstance(batches, tuple) else ""
        raise TypeError(
            f"batches is a list, one batch per inner step, but got {type(batches).__name__}{hint}"
        )
    if not batches:
        raise ValueError("batches is empty: an unroll needs at least one batch, one per inner step")


def check_loss(loss: Any, dims: int) -> None:
    """Raise unless the loss is a tensor in the params' graph of ``dims`` dimensions (tasks: 1)."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"the loss must be a scalar tensor, but got {type(loss).__name__}")
    if loss.dim() != dims:
        shape = tuple(loss.shape[dims:])
        raise ValueError(f"the loss must be a scalar, but got shape {shape}; take its mean or sum")
    if not loss.requires_grad:
        raise ValueError("the loss does not depend on the params: no weight has a part in it")


def check_step(step: Any, params: Params) -> None:
    """Raise unless a rule returned a ``Step`` whose params are named and shaped as before."""
    if not isinstance(step, Step):
        raise TypeError(f"the rule must return a Step, but got {type(step).__name__}")
    if step.params.keys() != params.keys():
        raise ValueError(
            f"the rule returned params named {sorted(step.params)}, but was given {sorted(params)}"
        )
    for name, param in params.items():
        if step.params[name].shape != param.shape:
            got, was = tuple(step.params[name].shape), tuple(param.shape)
            raise ValueError(f"the rule returned {name!r} with shape {got}, but it was given {was}")


def check_data(batches: Sequence[Batch], losses: Tensor) -> None:
    """Raise ``ValueError`` when a loss is not finite because a batch is not.

    The batches are looked at only when a loss is not finite, so that good data costs one look at
    the K losses; a run that diverged on good data is returned as it is.
    """
    if torch.isfinite(losses).all():
        return
    for k, batch in enumerate(batches):
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor) and not torch.isfinite(leaf).all():
                raise ValueError(f"batches[{k}] has values that are not finite (NaN or infinity)")
