"""Make groups with a period each for ``NestedOptimizer``, by the names or the depth of layers.

Source: Behrouz et al. 2025 (arXiv 2512.24695), Definition 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nested.levels.clock import Clock


def periods_by_name(module: nn.Module, periods: Mapping[str, int]) -> list[dict[str, Any]]:
    """Make groups for ``NestedOptimizer`` from ``periods``, {name of a layer: steps}.

    Each parameter of ``module`` takes the period of the longest name that it lies under. The name
    "" stands for all others; its default is 1. Raises ``ValueError`` for a name that no parameter
    lies under, for a period under 1, and for periods that are no dict of names.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> [(g["name"], g["period"], len(g["params"])) for g in periods_by_name(net, {"1": 10})]
    [('all others', 1, 2), ('1', 10, 2)]
    """
    if not (isinstance(periods, Mapping) and all(isinstance(name, str) for name in periods)):
        raise ValueError(f"periods is a dict from names to steps, but got {periods!r}")
    for period in periods.values():
        Clock(period)
    members: dict[str, list[nn.Parameter]] = {name: [] for name in sorted({"", *periods}, key=len)}
    for parameter_name, parameter in module.named_parameters():
        under = [n for n in members if not n or f"{parameter_name}.".startswith(f"{n}.")]
        members[under[-1]].append(parameter)
    empty = [name for name in periods if name and not members[name]]
    if empty:
        known = [name for name, _ in module.named_parameters()]
        raise ValueError(f"no parameter lies under {empty}: there are {known}")
    return [
        {"params": parameters, "period": periods.get(name, 1), "name": name or "all others"}
        for name, parameters in members.items()
        if parameters
    ]


def periods_by_depth(module: nn.Module, periods: Sequence[int]) -> list[dict[str, Any]]:
    """Make groups for ``NestedOptimizer`` by depth: the first layers take the first period.

    The layers of ``module``, in order, are cut into ``len(periods)`` equal parts. A layer is a
    module that has parameters directly, not only in its children. Periods are in steps. Raises
    ``ValueError`` for more periods than layers, for a period under 1, and for periods that are no
    tuple or list.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [(g["name"], g["period"]) for g in periods_by_depth(net, (10, 1))]
    [('depth 0', 10), ('depth 1', 1)]
    """
    if not isinstance(periods, (tuple, list)):
        raise ValueError(f"periods is a tuple of steps, one for each part, but got {periods!r}")
    for period in periods:
        Clock(period)
    layers = [list(layer.parameters(recurse=False)) for layer in module.modules()]
    layers = [layer for layer in layers if layer]
    if not 1 <= len(periods) <= len(layers):
        raise ValueError(f"{len(layers)} layers take 1 to {len(layers)} periods, not {periods}")
    groups = [{"params": [], "period": p, "name": f"depth {i}"} for i, p in enumerate(periods)]
    placed: set[nn.Parameter] = set()
    for i, layer in enumerate(layers):
        new = [p for p in layer if p not in placed]  # tied weights belong to their first layer
        groups[i * len(periods) // len(layers)]["params"] += new
        placed.update(new)
    return [group for group in groups if group["params"]]
