"""What can be wrong with the parts of an unroll, said in one sentence each.

Source: the contracts of ``nested.levels``: nothing here is mathematics. Letters: K steps, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_structure

from nested.levels.forward import Batch, Params, State
from nested.levels.rule import Step, UpdateRule
from nested.support.autograd import in_transform


def check_inputs(params: Params, batches: Sequence[Batch], rule: UpdateRule) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless these can start an unroll: ``params`` {name:
    (...)} of floats, a list of K >= 1 batches, and a rule."""
    if not isinstance(rule, UpdateRule):
        raise TypeError(f"rule must be an UpdateRule, but got {type(rule).__name__}")
    if not isinstance(params, dict) or not params:
        raise TypeError(
            f"params is a dict of tensors that is not empty, but got {type(params).__name__};"
            " pass dict(model.named_parameters())"
        )
    for name, param in params.items():
        if not isinstance(param, Tensor) or not param.is_floating_point():
            raise TypeError(f"params are tensors of floats, but {name!r} has {_form(param)}")
    if not isinstance(batches, list):
        hint = "; wrap a single (inputs, targets) in a list" if isinstance(batches, tuple) else ""
        raise TypeError(
            f"batches is a list, one batch per inner step, but got {type(batches).__name__}{hint}"
        )
    if not batches:
        raise ValueError("batches is empty: an unroll needs at least one batch, one per inner step")


def check_loss(loss: Any, dims: int) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless the loss is a tensor in the params' graph, ()
    for ``dims`` 0 and (T,) for ``dims`` 1."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"the loss must be a scalar tensor, but got {type(loss).__name__}")
    if loss.dim() != dims:
        shape = tuple(loss.shape[dims:])
        raise ValueError(f"the loss must be a scalar, but got shape {shape}; take its mean or sum")
    if not loss.requires_grad:
        raise ValueError("the loss does not depend on the params: no weight has a part in it")


def check_step(step: Any, params: Params) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless a rule returned a ``Step`` whose params are
    named and shaped as ``params`` {name: (...)}."""
    if not isinstance(step, Step):
        raise TypeError(f"the rule must return a Step, but got {type(step).__name__}")
    if not isinstance(step.params, dict) or not isinstance(step.signals, dict):
        raise TypeError(
            "the rule must return its params and its signals as dicts, but got"
            f" {type(step.params).__name__} and {type(step.signals).__name__}"
        )
    if step.params.keys() != params.keys():
        raise ValueError(
            f"the rule returned params {list(step.params)}, but was given {list(params)}"
        )
    for name, param in params.items():
        new = step.params[name]
        if not isinstance(new, Tensor) or new.shape != param.shape or new.dtype != param.dtype:
            raise ValueError(
                f"the rule returned {name!r} with {_form(new)}, but it was given {_form(param)}"
            )
    if not all(isinstance(signal, Tensor) for signal in step.signals.values()):
        raise TypeError("the rule returned signals that are not tensors; a float has no gradient")


def check_state(state: State, expected: State) -> None:
    """Raise ``ValueError`` unless ``state``, tensors (...), is nested as the ``expected`` one. The
    rule checks the shapes, which may have a leading T."""
    got, wanted = tree_structure(in_order(state)), tree_structure(in_order(expected))
    if got != wanted:
        raise ValueError(f"state is not one of this rule on these params: {got} is not {wanted}")


def with_horizon(rule: UpdateRule, steps: int) -> UpdateRule:
    """Return ``rule``, with its horizon set to ``steps`` if it needs one and has none. Its first
    state, tensors (...), may depend on that."""
    has_horizon = getattr(rule, "total_steps", steps) is not None
    return rule if has_horizon else rule.for_horizon(steps)


def in_order(tree: Any) -> Any:
    """Sort the keys of all dicts in nested tensors (...): their order means nothing."""
    if isinstance(tree, dict):
        return {key: in_order(tree[key]) for key in sorted(tree, key=str)}
    if type(tree) in (list, tuple):
        return type(tree)(map(in_order, tree))
    return tree


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"type {type(value).__name__}"
    return f"shape {tuple(value.shape)} and {value.dtype}"


def check_data(batches: Sequence[Batch], results: Any, name: str = "batches") -> None:
    """Raise ``ValueError`` when ``results`` are not finite because a batch is not, or is empty.

    ``results`` and ``batches`` are nested tensors (...). ``name`` is what to call the batches.

    The batches are read only when a result is not finite, so that good data costs one check of the
    results. A run that diverged on good data is returned as it is. Inside a transform of
    ``torch.func`` nothing can be read.
    """
    if in_transform() or all(torch.isfinite(leaf).all() for leaf in tree_leaves(results)):
        return
    for k, batch in enumerate(batches):
        which = f"{name}[{k}]" if name == "batches" else name
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor) and leaf.numel() == 0:
                raise ValueError(f"{which} is empty")
            if isinstance(leaf, Tensor) and not torch.isfinite(leaf).all():
                raise ValueError(f"{which} has values that are not finite (NaN or infinity)")
