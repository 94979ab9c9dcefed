"""The checkpoint of a meta-training: what is in it, and what a resumed run must agree on.

Source: ``nested.support.files`` writes and reads it, as plain data.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from nested.levels.rule import UpdateRule
from nested.meta.history import MetaRecord
from nested.tasks.family import TaskFamily

if TYPE_CHECKING:
    from nested.meta.training import Training

FORMAT = 1
# settings that every MetaConfig had once, and what a run that did not use them has in its file
FORMER = {
    "horizons": "uniform",
    "groups": 1,
    "weight_decay": 1e-4,
    "trust": math.inf,
    "first_order": False,
    "rescale": 1.0,
}


def snapshot(training: Training) -> dict[str, Any]:
    """Return everything needed to continue ``training`` from here, between runs, as plain data."""
    content = {
        "format": FORMAT,
        "made_for": _made_for(training),
        "rule": training.rule.state_dict(),
        "optimizer": training.meta_step.optimizer.state_dict(),
        "generator": training.generator.get_state(),
    }
    history = [tuple(record) for record in training.history.records]  # no class of ours in a file
    return {**copy.deepcopy(content), "history": history}


def restore(training: Training, content: dict[str, Any]) -> None:
    """Continue ``training`` from a snapshot. Raises ``ValueError``, before anything changes, unless
    it was made for the same training, or a shorter one."""
    if content.get("format") != FORMAT:
        raise ValueError(f"the checkpoint has format {content.get('format')}, not {FORMAT}")
    made_for = copy.deepcopy(content.get("made_for", {}))
    former = {n: v for n, v in FORMER.items() if not hasattr(training.config, n)}
    config = made_for.get("config", {})
    made_for["config"] = {n: v for n, v in config.items() if n not in former or v != former[n]}
    planned = made_for.get("config", {}).get("meta_steps", 0)
    if planned < training.config.meta_steps:  # the same training, made longer
        made_for.get("config", {})["meta_steps"] = training.config.meta_steps
    for part, here in _made_for(training).items():
        there = made_for.get(part)
        if there != here:
            raise ValueError(
                f"the checkpoint was made with another {part}: {_difference(there, here)};"
                " use the same settings, or another folder"
            )
    try:
        records = [MetaRecord(*record) for record in content["history"]]
        copy.deepcopy(training.rule).load_state_dict(content["rule"])
        training.generator.set_state(content["generator"])
        optimizer = training.meta_step.optimizer  # its settings are this device's, not the file's
        groups = {"param_groups": optimizer.state_dict()["param_groups"]}
        optimizer.load_state_dict({**content["optimizer"], **groups})
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError("the checkpoint lacks parts of a meta-training; delete it") from error
    training.rule.load_state_dict(content["rule"])
    training.history.records = records


def _made_for(training: Training) -> dict[str, Any]:
    rule = training.rule
    shapes = {n: f"{tuple(p.shape)} {p.dtype}" for n, p in rule.state_dict().items()}
    return {
        "rule": {"class": type(rule).__name__, **_settings(rule), **shapes},
        "family": {
            (f"{name} of family {i}" if i else name): value
            for i, family in enumerate(training.families)
            for name, value in {"class": type(family).__name__, **_settings(family)}.items()
        },
        "config": asdict(training.config),
    }


def _settings(part: UpdateRule | TaskFamily) -> dict[str, str]:
    """The plain public attributes of a rule or family, as text. Its device may change on resume."""

    def text(value: Any) -> str:  # a function, such as a feature, by its name, not its address
        if isinstance(value, tuple):
            return f"({', '.join(map(text, value))})"
        return getattr(value, "__qualname__", None) or repr(value)

    plain = (int, float, str, tuple, dict, torch.dtype)
    return {
        name: text(value)
        for name, value in vars(part).items()
        if isinstance(value, plain) and name not in ("device", "training") and name[0] != "_"
    }


def _difference(there: dict[str, Any] | None, here: dict[str, Any]) -> str:
    there = there or {}
    for key in [*here, *there]:
        if there.get(key) != here.get(key):
            return f"its {key} is {there.get(key)}, here it is {here.get(key)}"
    return "it is not the same"
