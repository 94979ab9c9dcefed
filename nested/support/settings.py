"""Settings of a run: read from YAML, and each of its kind.

Source: ``PyYAML``; ``dataclasses``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
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


def settings_from(path: Path | str, extra: str) -> dict[str, Any]:
    """Read settings from a YAML file. Raises ``ValueError`` if it holds none, or if the library is
    missing, which comes with ``extra`` of this package."""
    library = needed("yaml", extra)
    try:
        settings = library.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, library.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(f"cannot read settings from {str(path)!r}: {reason}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{str(path)!r} holds no settings, one line each: name: value")
    return settings


def from_preset(presets: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> Any:
    """Return the preset ``name``, a dataclass, with other ``settings``. Raises ``ValueError`` for
    another name, for a setting that does not exist, and for values that make no sense."""
    if name not in presets:
        raise ValueError(f"a preset is one of {', '.join(presets)}, but got {name!r}")
    known = {field.name for field in fields(presets[name])}
    for unknown in settings.keys() - known:
        raise ValueError(f"there is no setting {unknown!r}; settings: {', '.join(sorted(known))}")
    return replace(presets[name], **settings)


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
