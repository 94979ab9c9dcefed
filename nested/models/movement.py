"""How much each level of a model has moved between two states.

Source: Behrouz et al. 2025 (arXiv 2512.24695), Definition 2: a level is known by how often it
moves.
"""

from __future__ import annotations

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
            old, new = (read_weights(part["memory"]) for part in parts)
            names = levels_of(f"block {number} {name}", parts[0]["memory"])
            shares |= {level: _share(*pair) for level, *pair in zip(names, old, new)}
    return shares


def levels_of(part: str, memory: State) -> list[str]:
    """List the names of the levels of a ``memory`` (B, ...): one, or each of a continuum."""
    if not isinstance(memory, tuple):
        return [part]
    return [f"{part}, level {number}" for number in range(1, len(memory) + 1)]


def period_of(model: SequenceModel, level: str) -> int:
    """Return after how many tokens the ``level``, named as in ``movement``, is read anew."""
    _, is_continuum, number = level.partition("level ")
    return model.config.periods[int(number) - 1] if is_continuum else 1


def read_weights(memory: State) -> list[State]:
    """List the weights (B, ...) by which each level of a ``memory`` is read: in a continuum those
    of its start, elsewhere those of now."""
    if isinstance(memory, tuple):
        return [level["start"] for level in memory]
    return [memory.get("now", memory)]


def _share(before: State, after: State) -> float:
    old, new = (_numbers(state) for state in (before, after))
    size = max(old.norm().item(), new.norm().item())
    return (new - old).norm().item() / size if size else 0.0


def _numbers(weights: State) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in tree_leaves(weights)])
