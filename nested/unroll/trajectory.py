"""What an unroll leaves behind, and how its parts are joined.

Letters: T tasks, K inner steps. Source: the layout of a scan's outputs, time along one dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nested.levels.forward import Params, State


class Trajectory(NamedTuple):
    """What K inner steps leave behind. With many tasks at once every tensor has a leading T.

    ``losses[k]`` is batch k's loss, in the criterion's unit, at the weights *before* update k.
    ``params`` {name: (...)} and ``state`` are those after all K updates. ``signals`` are what the
    rule chose at each step.
    """

    params: Params
    state: State
    losses: Tensor  # (K,)
    signals: dict[str, Tensor]  # {name: (K, ...)}


def stack_trajectory(
    params: Params,
    state: State,
    losses: list[Tensor],
    signals: list[dict[str, Tensor]],
    time_dim: int = 0,
) -> Trajectory:
    """Join what K steps left, K losses and K dicts of signals, along the dimension ``time_dim``:
    losses (K,) and signals {name: (K, ...)}, or (T, K) and (T, K, ...). Raises ``ValueError`` for
    signals whose names change from step to step, ``RuntimeError`` for shapes that do."""
    if any(chosen.keys() != signals[0].keys() for chosen in signals):
        raise ValueError("the names of the rule's signals change from step to step")
    joined = {name: torch.stack([s[name] for s in signals], time_dim) for name in signals[0]}
    return Trajectory(params, state, torch.stack(losses, time_dim), joined)


def join(parts: Sequence[Trajectory], time_dim: int) -> Trajectory:
    """One trajectory from those of successive windows: losses (K,) or (T, K), with signals alike.
    Raises ``KeyError`` when the names of signals differ."""
    losses = torch.cat([part.losses for part in parts], time_dim)
    names = parts[0].signals
    signals = {name: torch.cat([p.signals[name] for p in parts], time_dim) for name in names}
    return Trajectory(parts[-1].params, parts[-1].state, losses, signals)
