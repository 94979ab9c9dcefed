"""Settings of a run: read from YAML, and each of its kind.

Source: ``PyYAML``; ``dataclasses``.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from nested.support.extras import needed

NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "nothing",
}


def settings_from(path: Path | str) -> dict[str, Any]:
    """Read settings from a YAML file. Raises ``ValueError`` if it holds none, or if the library is
    missing."""
    library = needed("yaml", "language")
    try:
        settings = library.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, library.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(f"cannot read settings from {str(path)!r}: {reason}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{str(path)!r} holds no settings, one line each: name: value")
    return settings


def check_kinds(settings: Any) -> None:
    """Raise ``ValueError`` unless each field of a dataclass holds a value of its kind.

    A whole number also passes for a float."""
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        if not _fits(value, hint):
            allowed = " or ".join(NAMES[kind] for kind in _kinds(hint))
            allowed = f"a list, each part {allowed}" if get_origin(hint) is tuple else allowed
            raise ValueError(f"{field.name} is {allowed}, but got {value!r}{_advice(value, hint)}")


def _kinds(hint: Any) -> tuple[type, ...]:
    return tuple(kind for kind in get_args(hint) if kind is not ...) or (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        return type(value) is tuple and all(type(part) in _kinds(hint) for part in value)
    return type(value) in _kinds(hint) or (type(value) is int and float in _kinds(hint))


def _advice(value: Any, hint: Any) -> str:
    """YAML takes 3e-3 for text, because it has no point."""
    try:
        return f"; write {float(value)}" if type(value) is str and float in _kinds(hint) else ""
    except ValueError:
        return ""
