"""States as nested dicts and tuples of tensors: one walk, and the checks that use it.

Source: Behrouz et al. 2025 (arXiv 2512.24695), section 3: a state is everything a level remembers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_leaves, tree_map_only, tree_structure, tree_unflatten

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
    """Count the numbers in the tensors (...) of ``state``. Positions (B,) do not count."""
    tensors = [leaf for _, leaf in leaves(state) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() for tensor in tensors if tensor.dim() > 1)


def picked(due: bool | Tensor, new: State, old: State) -> State:
    """Return ``new`` where ``due``, else ``old``: two states of one structure, tensors (B, ...).

    A ``due`` that is a tensor (B,) chooses for each sample, and becomes a part of the graph.
    """
    if not isinstance(due, Tensor):
        return new if due else old
    if isinstance(new, dict):
        return {name: picked(due, part, old[name]) for name, part in new.items()}
    if isinstance(new, (tuple, list)):
        return tuple(picked(due, *parts) for parts in zip(new, old, strict=True))
    return torch.where(due.to(new.device).reshape(-1, *[1] * (new.dim() - 1)), new, old)


def pick(state: State, samples: Sequence[int] | Tensor) -> State:
    """Select samples of a ``state`` of a memory or model, in the order of ``samples``, whole
    numbers (N,). They may repeat, and there may be none.

    All tensors (B, ...) become copies (N, ...). Raises ``IndexError`` for a sample that the state
    does not have.
    """

    def picked_from(leaf: Tensor) -> Tensor:
        index = torch.as_tensor(samples, device=leaf.device).reshape(-1)
        return leaf.index_select(0, index if index.numel() else index.long())  # [] is of floats

    return tree_map_only(Tensor, picked_from, state)


def stack_states(states: Sequence[State]) -> State:
    """Join the ``states`` of a memory or model into one state, sample after sample.

    Tensors (B, ...) become (sum of B, ...). A cache of attention is filled up with zeros to the
    longest. Raises ``ValueError`` for no states, and for states with different parts.
    """
    if not states:
        raise ValueError("stack_states joins one state or more, but got none")
    specs = [tree_structure(state) for state in states]
    if any(spec.num_leaves != specs[0].num_leaves for spec in specs):
        raise ValueError("stack_states joins states of one model, but these have different parts")
    parts = zip(*(tree_leaves(state) for state in states), strict=True)
    return tree_unflatten([_stacked(*part) for part in parts], specs[0])


def _stacked(*leaves: Tensor) -> Tensor:
    """Join tensors (B, ...) along B, each filled up with zeros to the longest."""
    if len({leaf.dim() for leaf in leaves}) > 1:
        raise ValueError("stack_states joins states of one model, but these have different shapes")
    longest = [max(sizes) for sizes in zip(*(leaf.shape[1:] for leaf in leaves), strict=True)]
    parts = []
    for leaf in leaves:
        missing = [wide - size for wide, size in zip(longest, leaf.shape[1:], strict=True)]
        parts.append(pad(leaf, [n for gap in reversed(missing) for n in (0, gap)]))
    return torch.cat(parts)


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
