"""Which slots are on, and what each check is worth: ``homework.toml``, read and checked."""

from __future__ import annotations

import hashlib
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from nested.homework.slots import SLOTS

TOML = Path(__file__).with_name("homework.toml")
SILENT = (tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER)
KEYS = {"on", "points", "bonus", "seconds", "fingerprint", "weights"}


@dataclass(frozen=True)
class Worth:
    """What ``homework.toml`` says of a slot: points in all, whether they are a bonus, seconds of
    time in all, the fingerprint of the untouched file, and the weights of checks (1 if unnamed)."""

    on: bool
    points: float
    seconds: float
    fingerprint: str
    bonus: bool = False
    weights: dict[str, float] = field(default_factory=dict)

    def share(self, check: str, checks: list[str]) -> float:
        """The points of one of a slot's ``checks``."""
        total = sum(self.weights.get(name, 1.0) for name in checks)
        return self.points * self.weights.get(check, 1.0) / total


def read_worth(path: Path = TOML) -> dict[str, Worth]:
    """Return what each slot is worth, {slot: Worth}; those that are off too.

    Raises ``ValueError`` for a file that cannot be read, a slot or check that there is none of, and
    values that make no sense.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if set(tables) != set(SLOTS):
        raise ValueError(f"{path.name} has slots {sorted(tables)}, but there are {sorted(SLOTS)}")
    return {name: _worth(name, table) for name, table in sorted(tables.items())}


def _worth(name: str, table: dict) -> Worth:
    unknown, missing = set(table) - KEYS, {"on", "points", "seconds", "fingerprint"} - set(table)
    if unknown or missing:
        raise ValueError(f"[{name}] has unknown {sorted(unknown)} and lacks {sorted(missing)}")
    strange = set(table.get("weights", {})) - {check.name for check in SLOTS[name].checks}
    if strange:
        raise ValueError(f"[{name}.weights] names checks that there are none of: {sorted(strange)}")
    numbers = [table["points"], table["seconds"], *table.get("weights", {}).values()]
    if not all(type(x) in (int, float) and x > 0 for x in numbers):
        raise ValueError(f"[{name}]: points, seconds and weights are numbers above 0")
    return Worth(**table)


def fingerprint(path: Path) -> str:
    """A fingerprint of a file's code, without docstring and comments: it says whether a student's
    file is still the one that was handed out. The same in every version of Python, so it goes by
    words, not by the syntax tree. Raises ``SyntaxError``, ``OSError``, ``tokenize.TokenError``."""
    with path.open("rb") as file:
        found = [token for token in tokenize.tokenize(file.readline) if token.type not in SILENT]
    if found and found[0].type == tokenize.STRING:
        del found[:2]  # the docstring, and the end of its line
    words = [token.string.strip() or tokenize.tok_name[token.type] for token in found]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
