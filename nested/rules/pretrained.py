"""Save rules to files and load them, as data without code. One comes with the package.

Source: the safetensors format; model cards after Mitchell et al. 2019 (arXiv 1810.03993).
"""

from __future__ import annotations

import ast
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
from torch import Tensor

from nested.levels.rule import UpdateRule
from nested.rules.registry import RULES
from nested.support.files import load_checkpoint, write_whole

FORMAT = "1"  # of the file, and of the meaning of the features
FOLDER = Path(__file__).with_name("pretrained")
UNREADABLE = object()  # marks a setting that is no plain data
ZIP = b"PK"  # the first bytes of a file of torch.save
NOT_SAVED = {"generator", "total_steps"}


def pretrained_names() -> list[str]:
    """List the names of the rules that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def save_rule(path: Path | str, rule: UpdateRule, card: dict[str, Any] | None = None) -> None:
    """Save a rule, with a ``card`` of plain data that describes its training.

    The file holds the rule's weights, its class by name, and its settings. These are the attributes
    named as the arguments of its constructor. Raises ``TypeError`` if ``rule`` is no rule. Raises
    ``ValueError`` for settings that are no attributes or that JSON cannot hold, and for a file that
    cannot be written.
    """
    if not isinstance(rule, UpdateRule):
        raise TypeError(f"save_rule takes an UpdateRule, but got {type(rule).__name__}")
    described = {"class": _import_path(type(rule)), "settings": _settings_of(rule)}
    try:
        texts = {"rule": json.dumps(described), "card": json.dumps(card or {})}
    except TypeError as error:
        raise ValueError(f"the rule's settings cannot be saved: {error}") from error
    tensors = {name: p.detach().cpu().contiguous() for name, p in rule.state_dict().items()}
    metadata = {"format": FORMAT, **texts}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_rule(
    name: Path | str = "default", *, rule_class: type[UpdateRule] | None = None
) -> UpdateRule:
    """Load the rule called ``name``: one of ``pretrained_names()``, a file that ``save_rule``
    wrote, or a checkpoint of ``meta_train``, such as the demo's ``rule.pt``.

    Its weights have the dtype of the file. No code in the file runs. So pass your class as
    ``rule_class``, if the rule is none of this package's. Raises ``ValueError`` if the file does
    not exist, cannot be read, was made by another version of this package, or holds another class.
    Raises ``TypeError`` if ``rule_class`` is no class of rules.
    """
    if rule_class is not None and not (
        isinstance(rule_class, type) and issubclass(rule_class, UpdateRule)
    ):
        raise TypeError(f"rule_class is a class of rules, but got {rule_class!r}")
    tensors, class_name, settings = _content(name)
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"the rule {str(name)!r} has weights that are not finite: train it anew")
    kind = _class_of(class_name, rule_class, name)
    allowed = inspect.signature(kind).parameters.keys() - NOT_SAVED
    settings = {n: value for n, value in settings.items() if n in allowed}
    if any(value is UNREADABLE for value in settings.values()):
        raise ValueError(
            f"the checkpoint {str(name)!r} is of a rule with settings that are no plain data:"
            " load it by meta_train(..., resume=True)"
        )
    try:
        rule = kind(**settings)
        rule.load_state_dict(tensors, assign=True)  # in the dtype of the file
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(_no_rule(name)) from error
    return rule


def _content(name: Path | str) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """Read the weights, the name of the class and the settings from a file."""
    if is_checkpoint(name):
        return _content_of_checkpoint(name)
    tensors, metadata = _read(name)
    if metadata.get("format") != FORMAT:
        version = metadata.get("format", "none")
        raise ValueError(
            f"the rule {str(name)!r} has format {version}, and this version of nested reads"
            f" {FORMAT}: train it anew, or install the version that made it"
        )
    try:
        described = json.loads(metadata["rule"])
        return tensors, described["class"], dict(described["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_no_rule(name)) from error


def _content_of_checkpoint(name: Path | str) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """Do as ``_content`` for a checkpoint of ``meta_train``, which keeps settings as text."""
    content = load_checkpoint(path_of(name))
    try:
        tensors, described = dict(content["rule"]), dict(content["made_for"]["rule"])
        class_name = described.pop("class")
        settings = {n: _from_text(text) for n, text in described.items() if n not in tensors}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(_no_rule(name)) from error
    return tensors, class_name, settings


def _from_text(text: str) -> Any:
    """Parse plain data; return ``UNREADABLE`` for a function or the like."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return UNREADABLE
    return (value,) if text.startswith("(") and not isinstance(value, tuple) else value


def _no_rule(name: Path | str) -> str:
    file = f"the file {str(name)!r}"
    return f"{file} does not hold a rule of this package: was it written by save_rule?"


def _class_of(
    class_name: str, rule_class: type[UpdateRule] | None, name: Path | str
) -> type[UpdateRule]:
    if rule_class is None and class_name in RULES:
        return RULES[class_name]
    if rule_class is None:
        raise ValueError(
            f"the file {str(name)!r} does not hold a rule of this package, but of the class"
            f" {class_name}: give that class, as in load_rule(path, rule_class=...)"
        )
    if class_name not in (_import_path(rule_class), rule_class.__name__):
        ours = _import_path(rule_class)
        raise ValueError(f"the file {str(name)!r} holds a {class_name}, but rule_class is {ours}")
    return rule_class


def _import_path(kind: type) -> str:
    """Return the name of a class in files: with its module, unless it is registered."""
    name = kind.__name__
    return name if RULES.get(name) is kind else f"{kind.__module__}.{kind.__qualname__}"


def _settings_of(rule: UpdateRule) -> dict[str, Any]:
    """Return the arguments that made a rule, except tensors, which its weights hold."""
    settings = {}
    for name, argument in inspect.signature(type(rule)).parameters.items():
        if name in NOT_SAVED or argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if not hasattr(rule, name):
            raise ValueError(
                f"the rule's settings cannot be saved: {name!r} is an argument of"
                f" {type(rule).__name__}, but no attribute; set self.{name} in __init__"
            )
        if not isinstance(getattr(rule, name), Tensor):
            settings[name] = getattr(rule, name)
    return settings


def read_card(name: Path | str = "default") -> dict[str, Any]:
    """Read the card of the rule called ``name``, which describes its training. Raises
    ``ValueError`` if the file does not exist or has no card."""
    try:
        return json.loads(_read(name)[1]["card"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"the file {str(name)!r} has no card that can be read") from error


def fingerprint(rule: UpdateRule) -> str:
    """Return a hash of the class, the settings and the weights of ``rule``.

    The dtype, the device and the horizon do not change it.
    """
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
    """Write a setting as text that is the same in every process: without addresses."""
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_as_text, value))})"
    if isinstance(value, dict):
        return f"({', '.join(f'{name}: {_as_text(value[name])}' for name in sorted(value))})"
    is_plain = value is None or isinstance(value, (bool, int, float, str, torch.dtype))
    return repr(value) if is_plain else getattr(value, "__qualname__", type(value).__qualname__)


def outside_of(card: dict[str, Any], shapes: Sequence[Sequence[int]], steps: int | None) -> str:
    """Describe in which sizes a net and a run lie outside the range of a rule's training.

    The net has parameters of these ``shapes`` and is trained for ``steps``; ``card`` is that of the
    rule. Returns "" if nothing lies outside, or if the card has no range.
    """
    sizes = measure_net(shapes)
    if steps is not None:
        sizes["steps"] = steps
    ranges = card.get("taught range", {})
    return ", ".join(
        f"{sizes[name]:,} {name} (trained on {low:,} to {high:,})"
        for name, (low, high) in ranges.items()
        if name in sizes and not low <= sizes[name] <= high
    )


def measure_net(shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """Return the sizes of a net that a card lists, from the ``shapes`` of its parameters."""
    return {
        "weights": sum(map(math.prod, shapes)),
        "tensors": len(shapes),
        "dimensions of a tensor": max(map(len, shapes), default=0),
    }


def is_checkpoint(name: Path | str) -> bool:
    """Return whether the file called ``name`` is a checkpoint, which has no card. Raises
    ``ValueError`` if it does not exist."""
    with path_of(name).open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def path_of(name: Path | str) -> Path:
    """Return the file of the rule called ``name``. Raises ``ValueError`` if it does not exist."""
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
