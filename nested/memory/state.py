"""States as nested dicts and tuples of tensors: one walk, and the checks that use it.

Source: Behrouz et al. 2025 (arXiv 2512.24695), section 3: a state is everything a level remembers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from nested.levels.forward import State


def leaves(state: State, path: str = "state") -> Iterator[tuple[str, object]]:
    """Yield each leaf of ``state`` with its path, such as ("state.memory.w1", a tensor (...))."""
    if isinstance(state, dict):
        parts = state.items()
    elif isinstance(state, (tuple, list)):
        parts = enumerate(state)
    else:
        yield path, state
        return
    for name, part in parts:
        yield from leaves(part, f"{path}.{name}")


def count_numbers(state: State) -> int:
    """Count the numbers in the tensors (...) of ``state``. Positions () do not count."""
    tensors = [leaf for _, leaf in leaves(state) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() for tensor in tensors if tensor.dim())


def picked(due: bool | Tensor, new: State, old: State) -> State:
    """Return ``new`` where ``due``, else ``old``: two states of one structure, tensors (...).

    A ``due`` that is a tensor () becomes a part of the graph.
    """
    if not isinstance(due, Tensor):
        return new if due else old
    if isinstance(new, dict):
        return {name: picked(due, part, old[name]) for name, part in new.items()}
    if isinstance(new, (tuple, list)):
        return tuple(picked(due, *parts) for parts in zip(new, old, strict=True))
    return torch.where(due.to(new.device), new, old)


def check_state(state: State, like: State, owner: str) -> None:
    """Raise ``ValueError`` unless the tensors (...) of ``state`` have the paths, shapes and dtypes
    of those in ``like``. The message names the ``owner`` of ``like``."""
    actual = {path: _kind(leaf) for path, leaf in leaves(state)}
    expected = {path: _kind(leaf) for path, leaf in leaves(like)}
    for path in sorted(actual.keys() | expected.keys()):
        has, wants = actual.get(path, "absent"), expected.get(path, "absent")
        if has == wants:
            continue
        if isinstance(has, tuple) and isinstance(wants, tuple) and has[0] == wants[0]:
            raise ValueError(
                f"{path} is {has[1]}, but here {owner} keeps {wants[1]}: convert the tensors of the"
                f" state with .to({wants[1]}), or start anew with None"
            )
        raise ValueError(
            f"this state does not belong to {owner}, or has another batch size: {path} is"
            f" {_in_words(has)}, but here {_in_words(wants)}; None starts anew"
        )


def check_gathered(state: State, owner: str) -> None:
    """Raise ``ValueError`` if ``state`` has tensors (...) that FSDP2 has sharded. The message names
    the ``owner`` of the state."""
    for _, leaf in leaves(state):
        if type(leaf) is not Tensor and hasattr(leaf, "full_tensor"):
            raise ValueError(
                f"the state of {owner} cannot start from sharded weights: apply fully_shard to"
                " whole memories, blocks or models, and let forward start the state (None)"
            )


def check_apart(state: State) -> None:
    """Raise ``ValueError`` if one tensor (...) stands twice in ``state``: an exported program would
    treat the two as one for ever."""
    if any(a is b for (_, a), (_, b) in combinations(leaves(state), 2)):
        raise ValueError(
            "torch.export merges tensors that stand twice in a state: export with a copy of each,"
            " which torch.utils._pytree.tree_map(torch.clone, state) makes"
        )


def _kind(leaf: object) -> object:
    """What must agree between two leaves: (shape, dtype) of a tensor, else the kind of value."""
    if isinstance(leaf, Tensor):
        return (tuple(leaf.shape), leaf.dtype) if leaf.dim() else "a number"
    return "a number" if isinstance(leaf, (int, torch.SymInt)) else type(leaf).__name__


def _in_words(kind: object) -> object:
    return f"{kind[0]} {kind[1]}" if isinstance(kind, tuple) else kind
