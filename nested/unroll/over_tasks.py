"""A function of one task, run on T tasks at once.

Letters: T tasks. Source: ``torch.vmap``, PyTorch's form of JAX's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only


def over_tasks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` for T tasks: all tensors that it takes and gives have a leading T.

    ``torch.vmap`` does the work. What it cannot run (a GRU, control flow that depends on data)
    runs one task after another, with one warning. Values that are no tensors are the same for all
    tasks. Each task draws its own random numbers. Raises what ``function`` raises.
    """
    one_by_one = False

    def batched(*args: Any) -> Any:
        nonlocal one_by_one
        if not one_by_one:
            try:
                in_dims = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, args)
                return torch.vmap(function, in_dims, randomness="different")(*args)
            except RuntimeError as error:
                if torch.compiler.is_compiling():
                    raise
                outputs = _in_turn(function, args)  # a user's mistake is raised here in plain words
                warnings.warn(
                    "torch.vmap cannot run this function, so the tasks run one after another, which"
                    f" is slower: {str(error).strip().splitlines()[0]}",
                    stacklevel=2,
                )
                one_by_one = True
                return outputs
        return _in_turn(function, args)

    return batched


def stack_tasks(trees: Sequence[Any]) -> Any:
    """Stack the tensors (...) of T equal nested structures into (T, ...).

    Values that are no tensors must be equal, and stay as they are. Raises ``ValueError`` or
    ``RuntimeError`` where structures, shapes or values differ, ``TypeError`` for T = 0.
    """
    return tree_map(_stack, *trees)


def pick_task(tree: Any, task: int) -> Any:
    """Undo ``stack_tasks`` for one task: tensors (T, ...) in, (...) out. Raises ``IndexError`` for
    a task that is not there."""
    return tree_map_only(Tensor, lambda leaf: leaf[task], tree)


def set_beside(kind: type, method: str, name: str) -> Any:
    """Return the attribute ``name`` that describes a method of ``kind``, or None without one.

    It must stand in the class that defines ``method``. A subclass may override the method alone,
    and the attribute that it inherits then describes another method.
    """
    definer = next(parent for parent in kind.__mro__ if method in vars(parent))
    return getattr(definer, name) if name in vars(definer) else None


def _in_turn(function: Callable[..., Any], args: tuple) -> Any:
    count = next(len(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
    return stack_tasks([function(*pick_task(args, task)) for task in range(count)])


def _stack(*leaves: Any) -> Any:
    if isinstance(leaves[0], Tensor):
        return torch.stack(leaves)
    if any(leaf != leaves[0] for leaf in leaves):
        raise ValueError(
            f"values that are no tensors are shared by all tasks, but they differ: {leaves}"
        )
    return leaves[0]
