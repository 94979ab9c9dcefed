"""Check the saved state of a learned optimizer, and complete that of older versions.

Source: the conventions of ``torch.optim``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from nested.optim.base import check_saved

NEW = ("fingerprint", "matrices")  # settings that older versions did not save


def completed(state_dict: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``state_dict`` of a learned optimizer with all settings in its groups.

    Settings that an older version did not save are taken from ``defaults``, with a warning. Raises
    ``ValueError`` for the state of another optimizer.
    """
    settings = {name: value for name, value in defaults.items() if name not in NEW}
    check_saved("LearnedOptimizer", settings, state_dict, "state", "param_groups")
    groups = state_dict["param_groups"]
    if not all("fingerprint" in group for group in groups):
        warnings.warn(
            "an older version of nested saved this state, without a fingerprint of its rule: check"
            " that the rule is the same",
            stacklevel=4,
        )
    ours = {name: defaults[name] for name in NEW}
    return {**state_dict, "param_groups": [{**ours, **group} for group in groups]}


def check_made_for(
    state_dict: dict[str, Any], defaults: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]
) -> None:
    """Raise ``ValueError`` unless a complete ``state_dict`` belongs to the same rule, the same
    number of steps, and weights of these ``shapes``."""
    groups = state_dict["param_groups"]
    for group in groups:
        for setting in ("rule", "total_steps"):
            theirs, ours = group[setting], defaults[setting]
            if theirs != ours:
                raise ValueError(
                    f"this state is of an optimizer with {setting} {theirs}, but here it is {ours}:"
                    " make one with the same"
                )
        theirs, ours = group["fingerprint"], defaults["fingerprint"]
        if theirs != ours:
            raise ValueError(
                f"this state is of a {group['rule']} rule with other settings or weights"
                f" (fingerprint {theirs}, here {ours}): load the rule that made it"
            )
    for here, i in zip(shapes, (i for group in groups for i in group["params"])):
        shape = tuple(state_dict["state"].get(i, {}).get("shape", here))
        if shape != tuple(here):
            raise ValueError(
                f"this is the state of other weights: one was {shape}, but here one is {here}"
            )
