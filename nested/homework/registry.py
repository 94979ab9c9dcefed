"""Read and check ``homework.toml`` (slots, points, weights) and ``hints.toml`` (hints)."""

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
HINTS = Path(__file__).with_name("hints.toml")
SILENT = (tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER)
REQUIRED = {"on", "points", "seconds", "fingerprint"}
KEYS = REQUIRED | {"bonus", "minutes", "difficulty", "weights"}
HARDEST = 5


@dataclass(frozen=True)
class Worth:
    """The settings of one slot in ``homework.toml``.

    ``points`` and ``seconds`` are totals over all checks. ``weights`` divides the points; a check
    that it does not name has weight 1. ``fingerprint`` is that of the untouched file. ``minutes``
    is the time that a student may need, and ``difficulty`` goes from 1 to 5. Both are 0 where the
    file does not give them."""

    on: bool
    points: float
    seconds: float
    fingerprint: str
    bonus: bool = False
    minutes: float = 0
    difficulty: int = 0
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def effort(self) -> str:
        """Time and difficulty as a sentence, or "" where they are not known."""
        return effort(self.minutes, self.difficulty)

    def share(self, check: str, checks: list[str]) -> float:
        """Return the points of one of a slot's ``checks``."""
        total = sum(self.weights.get(name, 1.0) for name in checks)
        return self.points * self.weights.get(check, 1.0) / total


def effort(minutes: float, difficulty: int) -> str:
    """Return "about 5 minutes, difficulty 1 of 5". A number that is 0 is left out."""
    in_words = f"{minutes:g} minutes" if minutes < 90 else f"{minutes / 60:g} hours"
    parts = [f"about {in_words}"] if minutes else []
    return ", ".join([*parts, *([f"difficulty {difficulty} of {HARDEST}"] if difficulty else [])])


def read_worth(path: Path = TOML) -> dict[str, Worth]:
    """Return the settings of each slot, {slot: Worth}, also of slots that are switched off.

    Raises ``ValueError`` for a file that cannot be read, a slot or check that does not exist, and
    values out of range.
    """
    tables = _read(path)
    if set(tables) != set(SLOTS):
        raise ValueError(f"{path.name} has slots {sorted(tables)}, but there are {sorted(SLOTS)}")
    return {name: _worth(name, table) for name, table in sorted(tables.items())}


def _read(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _worth(name: str, table: dict) -> Worth:
    unknown, missing = set(table) - KEYS, REQUIRED - set(table)
    if unknown or missing:
        raise ValueError(f"[{name}] has unknown {sorted(unknown)} and lacks {sorted(missing)}")
    strange = set(table.get("weights", {})) - {check.name for check in SLOTS[name].checks}
    if strange:
        raise ValueError(f"[{name}.weights] names checks that do not exist: {sorted(strange)}")
    numbers = [table["points"], table["seconds"], *table.get("weights", {}).values()]
    if not all(type(x) in (int, float) and x > 0 for x in numbers):
        raise ValueError(f"[{name}]: points, seconds and weights are numbers above 0")
    if not (type(table.get("minutes", 1)) in (int, float) and table.get("minutes", 1) > 0):
        raise ValueError(f"[{name}]: minutes is a number above 0, but got {table['minutes']!r}")
    if table.get("difficulty", 1) not in range(1, HARDEST + 1):
        got = table["difficulty"]
        raise ValueError(f"[{name}]: difficulty goes from 1 to {HARDEST}, but got {got!r}")
    return Worth(**table)


def read_hints(path: Path = HINTS) -> dict[str, list[tuple[str, list[str]]]]:
    """Return the hints of each slot that has hints, {slot: [(beginning of check names, hints)]}.

    The hints go from vague to concrete. Raises ``ValueError`` for a file that cannot be read, and
    for hints to a slot or to checks that do not exist.
    """
    hints = {}
    for name, tables in _read(path).items():
        if name not in SLOTS:
            raise ValueError(f"{path.name} has hints for {name}, but there is no such slot")
        hints[name] = [(table["checks"], table["hints"]) for table in tables]
        for start, _ in hints[name]:
            if not any(check.name.startswith(start) for check in SLOTS[name].checks):
                raise ValueError(f"{path.name}: no check of {name} begins with {start!r}")
    return hints


def fingerprint(path: Path) -> str:
    """Compute a fingerprint of a file's code, without its docstring and comments.

    It tells whether a student has changed the file. It uses tokens, not the syntax tree, so that
    every version of Python gives the same. Raises ``SyntaxError``, ``OSError`` and
    ``tokenize.TokenError``."""
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in SILENT]
    if tokens and tokens[0].type == tokenize.STRING:
        del tokens[:2]  # the docstring, and the end of its line
    words = [token.string.strip() or tokenize.tok_name[token.type] for token in tokens]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
