"""Rules as files: tensors and settings, read as data only; some come with the package.

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

FORMAT = "1"  # of the file, and of what the features mean
FOLDER = Path(__file__).with_name("pretrained")
UNREADABLE = object()
ZIP = b"PK"  # how a file of torch.save begins
NOT_SAVED = {"generator", "total_steps"}


def pretrained_names() -> list[str]:
    """The names of the rules that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def save_rule(path: Path | str, rule: UpdateRule, card: dict[str, Any] | None = None) -> None:
    """Save a rule, with a ``card`` of plain data that says how it was made.

    The file holds the rule's weights, its class by import path, and its settings: the attributes
    that are called as the arguments of its constructor. Raises ``TypeError`` for what is no rule,
    ``ValueError`` for settings that are no attributes or that JSON cannot hold, or for a file that
    cannot be written.
    """
    if not isinstance(rule, UpdateRule):
        raise TypeError(f"save_rule takes an UpdateRule, but got {type(rule).__name__}")
    described = {"class": _import_path(type(rule)), "settings": _settings_of(rule)}
    try:
        words = {"rule": json.dumps(described), "card": json.dumps(card or {})}
    except TypeError as error:
        raise ValueError(f"the rule's settings cannot be saved: {error}") from error
    tensors = {name: p.detach().cpu().contiguous() for name, p in rule.state_dict().items()}
    about = {"format": FORMAT, **words}
    write_whole(path, lambda temporary: save_file(tensors, temporary, about))


def load_rule(
    name: Path | str = "default", *, rule_class: type[UpdateRule] | None = None
) -> UpdateRule:
    """Load the rule called ``name``: one of ``pretrained_names()``, a file that ``save_rule``
    wrote, or a checkpoint of ``meta_train``, such as the demo's ``rule.pt``.

    Its weights get the dtype of the file. No code of the file runs: a rule of your own class is
    only loaded when ``rule_class`` is that class. Raises ``ValueError`` when the file is not there,
    cannot be read, was made by another version of this package, or holds another class;
    ``TypeError`` for a ``rule_class`` that is none.
    """
    if rule_class is not None and not (
        isinstance(rule_class, type) and issubclass(rule_class, UpdateRule)
    ):
        raise TypeError(f"rule_class is a class of rules, but got {rule_class!r}")
    tensors, stated, settings = _content(name)
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"the rule {str(name)!r} has weights that are not finite: train it anew")
    kind = _class_of(stated, rule_class, name)
    allowed = inspect.signature(kind).parameters.keys() - NOT_SAVED
    settings = {n: value for n, value in settings.items() if n in allowed}
    if any(value is UNREADABLE for value in settings.values()):
        raise ValueError(
            f"the checkpoint {str(name)!r} is of a rule with settings that are no plain data:"
            " load it by meta_train(..., resume=True)"
        )
    try:
        made = kind(**settings)
        made.load_state_dict(tensors, assign=True)  # in the dtype of the file
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(_no_rule(name)) from error
    return made


def _content(name: Path | str) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """The weights, the class and the settings that a file holds."""
    if is_checkpoint(name):
        return _content_of_checkpoint(name)
    tensors, about = _read(name)
    if about.get("format") != FORMAT:
        version = about.get("format", "none")
        raise ValueError(
            f"the rule {str(name)!r} has format {version}, and this version of nested reads"
            f" {FORMAT}: train it anew, or install the version that made it"
        )
    try:
        described = json.loads(about["rule"])
        return tensors, described["class"], dict(described["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_no_rule(name)) from error


def _content_of_checkpoint(name: Path | str) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """As ``_content``, of a checkpoint of ``meta_train``, which keeps settings as text."""
    content = load_checkpoint(path_of(name))
    try:
        tensors, described = dict(content["rule"]), dict(content["made_for"]["rule"])
        stated = described.pop("class")
        settings = {n: _from_text(text) for n, text in described.items() if n not in tensors}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(_no_rule(name)) from error
    return tensors, stated, settings


def _from_text(text: str) -> Any:
    """The plain data that a text shows; ``UNREADABLE`` for a function or the like."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return UNREADABLE
    return (value,) if text.startswith("(") and not isinstance(value, tuple) else value


def _no_rule(name: Path | str) -> str:
    said = f"the file {str(name)!r} does not hold a rule of this package"
    return f"{said}: was it written by save_rule?"


def _class_of(
    stated: str, rule_class: type[UpdateRule] | None, name: Path | str
) -> type[UpdateRule]:
    if rule_class is None and stated in RULES:
        return RULES[stated]
    if rule_class is None:
        raise ValueError(
            f"the file {str(name)!r} does not hold a rule of this package, but of the class"
            f" {stated}: give that class, as in load_rule(path, rule_class=...)"
        )
    if stated not in (_import_path(rule_class), rule_class.__name__):
        ours = _import_path(rule_class)
        raise ValueError(f"the file {str(name)!r} holds a {stated}, but rule_class is {ours}")
    return rule_class


def _import_path(kind: type) -> str:
    """A class by the name that files call it: those of this package without their module."""
    name = kind.__name__
    return name if RULES.get(name) is kind else f"{kind.__module__}.{kind.__qualname__}"


def _settings_of(rule: UpdateRule) -> dict[str, Any]:
    """The arguments that made a rule; not those that are tensors, which its weights hold."""
    settings = {}
    for name, argument in inspect.signature(type(rule)).parameters.items():
        if name in NOT_SAVED or argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if not hasattr(rule, name):
            raise ValueError(
                f"the rule's settings cannot be saved: {name!r} is an argument of"
                f" {type(rule).__name__}, but no attribute; set self.{name} when it is made"
            )
        if not isinstance(getattr(rule, name), Tensor):
            settings[name] = getattr(rule, name)
    return settings


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


def is_checkpoint(name: Path | str) -> bool:
    """Tell whether the file called ``name`` is a checkpoint, which has no card. Raises
    ``ValueError`` when it is not there."""
    with path_of(name).open("rb") as file:
        return file.read(len(ZIP)) == ZIP


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
