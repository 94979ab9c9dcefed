"""How much each level of a model has moved between two states.

Source: Behrouz et al. 2025 (arXiv 2512.24695), Definition 2: a level is known by how often it
moves.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nested.levels.forward import State
from nested.models.model import SequenceModel


def movement(model: SequenceModel, before: State, after: State) -> dict[str, float]:
    """Return {level: |after - before| / the larger norm} for two states of ``model`` (B, ...).

    0 is no movement, and 1 a memory that was empty before. Attention is left out: it keeps all.
    """
    shares = {}
    for number, block in enumerate(model.blocks, start=1):
        states = (before["blocks"][number - 1], after["blocks"][number - 1])
        for name in block.parts:
            parts = [state[name] for state in states]
            if not isinstance(parts[0], dict) or "memory" not in parts[0]:
                continue
            for level, (old, new) in _levels(*(part["memory"] for part in parts)):
                shares[f"block {number} {name}{level}"] = _share(old, new)
    return shares


def _levels(before: State, after: State) -> Iterator[tuple[str, tuple[State, State]]]:
    if isinstance(before, tuple):  # of a continuum: a level is read by the weights of its start
        for number, pair in enumerate(zip(before, after, strict=True), start=1):
            yield f", level {number}", tuple(level["start"] for level in pair)
    else:  # other memories are read by their weights now
        yield "", tuple(state.get("now", state) for state in (before, after))


def _share(before: State, after: State) -> float:
    old, new = (_numbers(state) for state in (before, after))
    size = max(old.norm().item(), new.norm().item())
    return (new - old).norm().item() / size if size else 0.0


def _numbers(weights: State) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in tree_leaves(weights)])
