"""Find students' files that are alike, even with new names, comments, layout or order of functions.

A file becomes a list of the nodes of its syntax tree, without comments, docstrings, type hints and
imports. All names that the file defines become one word; names from libraries stay. Numbers count
by value: 0.1 and 1e-1 are the same. Each run of ``RUN`` nodes is a fingerprint. The likeness of two
files is the share of the smaller one's fingerprints that the larger one also has.

Code that anybody may have does not count: the stub, the lessons and this package. A file with fewer
than ``LEAST`` other fingerprints is not compared. There are few ways to write one line, so slots
such as hw0 are never compared. Two files are alike from ``THRESHOLD`` on. Right answers of two
students stay far below it, even in the same plain style. A copy stays above it, even with new
names, comments, number formats and order of functions. Tests check both on the answers in
``tests``.

A false alarm is still possible: two students who followed one tutorial, or worked as a team, share
their code. So likeness is a reason to read both files and to talk. It is no proof. It cannot tell
who copied from whom, and it misses a copy in which every statement is rewritten.
Source: winnowing, Schleimer, Wilkerson, Aiken 2003, doi 10.1145/872757.872770.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

from nested.homework.grade import LARGEST_FILE, as_name, find_file, without_grading
from nested.homework.registry import Worth
from nested.homework.slots import SLOTS

ROOT = Path(__file__).parents[2]
RUN = 12  # nodes
LEAST = 60  # fingerprints
THRESHOLD = 0.7
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OSError)
IMPORTS = (ast.Import, ast.ImportFrom)
SKIPPED = ("annotation", "returns", "ctx", "type_comment", "type_ignores", "type_params", "kind")


@dataclass(frozen=True)
class Alike:
    """A group of students whose files of one slot are alike.

    Each file is like at least one other. ``likeness`` is that of the most similar pair."""

    slot: str
    students: tuple[str, ...]
    likeness: float


def find_alike(
    folders: Sequence[Path], names: Sequence[str], worth: Mapping[str, Worth], root: Path = ROOT
) -> list[Alike]:
    """Find the groups of students' ``folders`` that are alike in the slots ``names``.

    ``root`` is a checkout of the course, with its stubs. Raises ``ValueError`` if one is missing.
    """
    groups = []
    for slot in names:
        known = _known_code(root) | fingerprints(_stub(root, slot))
        prints = {}
        for folder in folders:
            if without_grading(slot, folder, worth[slot]) is None:
                fresh = fingerprints(_read(find_file(folder, SLOTS[slot].file))) - known
                if len(fresh) >= LEAST:
                    prints[as_name(folder)] = fresh
        groups += _groups(slot, prints)
    return groups


def likeness(first: frozenset[int], second: frozenset[int]) -> float:
    """Return the share, from 0 to 1, of the smaller set of fingerprints that the other set has."""
    return len(first & second) / max(min(len(first), len(second)), 1)


def fingerprints(source: str) -> frozenset[int]:
    """Return the fingerprints of a file's text, or none if the text is not Python."""
    try:
        words = list(_words(ast.parse(source)))
    except UNREADABLE:
        return frozenset()
    return frozenset(hash(tuple(words[i : i + RUN])) for i in range(len(words) - RUN + 1))


def _groups(slot: str, prints: Mapping[str, frozenset[int]]) -> Iterator[Alike]:
    """Join pairs into groups, so that a class that shares one answer takes one line."""
    pairs = {
        pair: share
        for pair in combinations(prints, 2)
        if (share := likeness(prints[pair[0]], prints[pair[1]])) >= THRESHOLD
    }
    group = {name: {name} for name in prints}
    for first, second in pairs:
        joined = group[first] | group[second]
        for name in joined:
            group[name] = joined
    for joined in {id(group[name]): group[name] for pair in pairs for name in pair}.values():
        most = max(share for pair, share in pairs.items() if pair[0] in joined)
        yield Alike(slot, tuple(name for name in prints if name in joined), most)


def _stub(root: Path, slot: str) -> str:
    path = root / "examples" / "homework" / SLOTS[slot].file
    if not path.is_file():
        raise ValueError(f"{path} is not there: run this in a checkout of the whole course")
    return path.read_text(encoding="utf-8")


def _read(path: Path) -> str:
    if path.stat().st_size > LARGEST_FILE:
        return ""
    return path.read_bytes().decode("utf-8", "replace")


@cache
def _known_code(root: Path) -> frozenset[int]:
    files = [*(root / "nested").rglob("*.py"), *(root / "examples").glob("*.py")]
    return frozenset().union(*(fingerprints(path.read_text(encoding="utf-8")) for path in files))


# --- a tree as words -----------------------------------------------------------------------------


def _words(tree: ast.Module) -> Iterator[str]:
    (defined, attributes), imported = _given_names(tree), _imported_names(tree)
    stack: list[ast.AST] = [tree]  # of nodes still to come, the next one last
    while stack:
        node = stack.pop()
        if isinstance(node, IMPORTS) or _is_silent(node):
            continue
        yield _word(node, defined, attributes, imported)
        below = [
            child
            for field, value in ast.iter_fields(node)
            if field not in SKIPPED
            for child in (value if isinstance(value, list) else [value])
            if isinstance(child, ast.AST)
        ]
        stack.extend(reversed(below))


def _is_silent(node: ast.AST) -> bool:
    """Tell whether a statement does nothing: a docstring, ``...``, ``pass``, or a typed name."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_bare = isinstance(node, ast.AnnAssign) and node.value is None
    return is_constant or is_bare or isinstance(node, ast.Pass)


def _word(
    node: ast.AST, defined: set[str], attributes: set[str], imported: Mapping[str, str]
) -> str:
    kind = type(node).__name__
    if isinstance(node, ast.Name):
        return imported.get(node.id) or ("name" if node.id in defined else node.id)
    if isinstance(node, ast.Attribute):
        return "." + ("name" if node.attr in attributes else node.attr)
    if isinstance(node, ast.Constant):
        is_number = isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
        return str(node.value + 0.0 if is_number else type(node.value).__name__)
    return "Assign" if kind == "AnnAssign" else kind


def _given_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """List the names that the file defines: functions, classes, arguments and variables, and then
    attributes and methods."""
    names, attributes = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            attributes.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            attributes.add(node.attr)
    return names, attributes


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Map each imported name to the original name, without its module. So ``import torch as t``
    and ``from torch import stack as s`` change nothing."""
    return {
        (alias.asname or alias.name.split(".")[0]): alias.name.rsplit(".", 1)[-1]
        for node in ast.walk(tree)
        if isinstance(node, IMPORTS)
        for alias in node.names
    }
