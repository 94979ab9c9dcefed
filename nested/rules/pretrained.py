"""Rules as files: tensors and settings, read as data only; some come with the package.

Source: the safetensors format; model cards after Mitchell et al. 2019 (arXiv 1810.03993).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nested.levels.meta_optimizer import MetaOptimizer
from nested.levels.rule import UpdateRule
from nested.rules.coordinatewise import CoordinatewiseRule
from nested.rules.per_tensor import PerTensorRule
from nested.support.files import write_whole

FORMAT = "1"  # of the file, and of what the features mean
FOLDER = Path(__file__).with_name("pretrained")
RULES = {rule.__name__: rule for rule in (CoordinatewiseRule, PerTensorRule, MetaOptimizer)}
NOT_SAVED = {"generator", "total_steps"}


def pretrained_names() -> list[str]:
    """The names of the rules that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def save_rule(path: Path | str, rule: UpdateRule, card: dict[str, Any] | None = None) -> None:
    """Save a rule of this package, with a ``card`` of plain data that says how it was made. Raises
    ``ValueError`` for another kind of rule, settings that JSON cannot hold, or a file that cannot
    be written."""
    kind = type(rule).__name__
    if RULES.get(kind) is not type(rule):
        raise ValueError(f"rules that can be saved are {sorted(RULES)}, but got a {kind}")
    names = inspect.signature(type(rule)).parameters.keys() - NOT_SAVED
    try:
        described = json.dumps({"class": kind, "settings": {n: getattr(rule, n) for n in names}})
        about = {"format": FORMAT, "rule": described, "card": json.dumps(card or {})}
    except TypeError as error:
        raise ValueError(f"the rule's settings cannot be saved: {error}") from error
    tensors = {name: p.detach().cpu().contiguous() for name, p in rule.state_dict().items()}
    write_whole(path, lambda temporary: save_file(tensors, temporary, about))


def load_rule(name: Path | str = "default") -> UpdateRule:
    """Load the rule called ``name``: one of ``pretrained_names()``, or a file that ``save_rule``
    wrote. Never runs code from the file. Raises ``ValueError`` when it is not there, cannot be
    read, or was made by another version of this package."""
    tensors, about = _read(name)
    if about.get("format") != FORMAT:
        version = about.get("format", "none")
        raise ValueError(
            f"the rule {str(name)!r} has format {version}, and this version of nested reads"
            f" {FORMAT}: train it anew, or install the version that made it"
        )
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"the rule {str(name)!r} has weights that are not finite: train it anew")
    try:
        described = json.loads(about["rule"])
        made = RULES[described["class"]](**described["settings"])
        made.load_state_dict(tensors, assign=True)  # in the dtype of the file
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the file {str(name)!r} does not hold a rule of this package: was it written by"
            " save_rule?"
        ) from error
    return made


def read_card(name: Path | str = "default") -> dict[str, Any]:
    """How the rule called ``name`` was made, as ``save_rule`` was told. Raises ``ValueError`` when
    it is not there or has no card."""
    try:
        return json.loads(_read(name)[1]["card"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"the file {str(name)!r} has no card that can be read") from error


def fingerprint(rule: UpdateRule) -> str:
    """Return a hash of the class, the settings and the weights of ``rule``: alike for rules that
    move alike, whatever their dtype, device or horizon."""
    kind = type(rule)
    words = [f"{kind.__module__}.{kind.__qualname__}", FORMAT]
    names = sorted(inspect.signature(kind).parameters.keys() - NOT_SAVED)
    words += [f"{name}={_as_text(getattr(rule, name, None))}" for name in names]
    digest = hashlib.sha256("\n".join(words).encode())
    for name, x in sorted(rule.state_dict().items()):
        digest.update(f"{name} {tuple(x.shape)}".encode())
        digest.update(x.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()[:16]


def _as_text(value: Any) -> str:
    """A setting as text that another process finds again: no address is part of it."""
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_as_text, value))})"
    if isinstance(value, dict):
        return f"({', '.join(f'{name}: {_as_text(value[name])}' for name in sorted(value))})"
    is_plain = value is None or isinstance(value, (bool, int, float, str, torch.dtype))
    return repr(value) if is_plain else getattr(value, "__qualname__", type(value).__qualname__)


def outside_of(card: dict[str, Any], shapes: Sequence[Sequence[int]], steps: int | None) -> str:
    """Say in which ways a net with parameters of these ``shapes``, trained for ``steps``, differs
    from all that the rule of this ``card`` was taught on. Returns "" if it does not, or if the card
    does not tell its ``taught_range``."""
    ours = {**measure_net(shapes), **({} if steps is None else {"steps": steps})}
    taught = card.get("taught range", {})
    return ", ".join(
        f"{ours[name]:,} {name} (taught: {low:,} to {high:,})"
        for name, (low, high) in taught.items()
        if name in ours and not low <= ours[name] <= high
    )


def measure_net(shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """Return the sizes of a net, from the ``shapes`` of its parameters, that a card tells."""
    return {
        "weights": sum(map(math.prod, shapes)),
        "tensors": len(shapes),
        "dimensions of a tensor": max(map(len, shapes), default=0),
    }


def path_of(name: Path | str) -> Path:
    """The file of the rule called ``name``. Raises ``ValueError`` when it is not there."""
    known = pretrained_names()
    path = FOLDER / f"{name}.safetensors" if str(name) in known else Path(name)
    if not path.is_file():
        raise ValueError(f"there is no rule {str(name)!r}: there are {known}, or give a file")
    return path


def _read(name: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    path = path_of(name)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"the file {str(name)!r} cannot be read: it is truncated, or no rule"
        ) from error
