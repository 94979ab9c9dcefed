"""The house: imports point down, files and functions stay small, public names are documented."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "nested").rglob("*.py"))
# what each room may import; a room may always import itself
ROOMS = {
    "support": set(),
    "levels": {"support"},
    "unroll": {"support", "levels"},
    "tasks": {"support", "levels", "unroll"},
    "meta": {"support", "levels", "unroll", "tasks"},
    "rules": {"support", "levels", "unroll", "tasks", "meta"},
    "optim": {"support", "levels"},
    "memory": {"support", "levels"},
    "models": {"support", "levels", "memory"},
}
LADDER = [*(ROOT / "nested" / "levels").glob("*.py"), ROOT / "nested" / "unroll" / "eager.py"]


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module


def lines(path):
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = path.relative_to(ROOT / "nested").parts[0]
    for module in imported_modules(path):
        top, _, rest = module.partition(".")
        assert top not in ("examples", "main", "tests", "torchvision", "torchaudio")
        if top != "nested" or room not in ROOMS:
            continue
        assert rest, f"{path.name} imports the whole package; import from the room"
        assert rest.split(".")[0] in ROOMS[room] | {room}


def test_every_room_has_its_place():
    here = {path.name for path in (ROOT / "nested").iterdir() if path.is_dir()}
    assert here - {"__pycache__"} <= set(ROOMS) | {
        "conformance",
        "homework",
        "language",
        "continual",
    }


def test_the_ladder_reads_in_an_evening():
    assert all(lines(path) < 120 for path in LADDER)
    assert sum(map(lines, LADDER)) < 600


@pytest.mark.parametrize("path", [*FILES, ROOT / "main.py"], ids=lambda p: p.name)
def test_files_and_functions_stay_small(path):
    assert lines(path) < 300
    assert not set(path.parts) & {"utils", "helpers", "misc", "common"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name != "parse":  # a list of flags
            documented = ast.get_docstring(node, clean=False) or ""
            code = node.end_lineno - node.lineno - documented.count("\n")
            assert code <= 45, f"{node.name} in {path.name} has {code} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_public_names_are_documented_and_typed(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} says nothing about itself"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
            if isinstance(node, ast.FunctionDef):
                assert node.returns is not None, f"{node.name} does not say what it returns"
                assert all(a.annotation for a in node.args.args + node.args.kwonlyargs), node.name


TENSORS = {"Tensor", "Params", "State", "Batch"}
SHAPE = re.compile(
    r"\((\.\.\.|[A-Z]|([A-Z]|[0-9])[^()]*,[^()]*|)\)"
)  # (...), (T, K), (1797, 64), ()


def public_functions(path):
    """Each public function of a file, and what its docstring and its class's say."""
    tree = ast.parse(path.read_text())
    for owner in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        around = "" if owner is tree else ast.get_docstring(owner) or ""
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
                yield node, f"{around} {ast.get_docstring(node) or ''}", owner is not tree


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_docstrings_give_shapes_errors_and_source(path):
    for node, said, is_method in public_functions(path):
        if not (is_method and ast.get_docstring(node) is None):  # documented by its base class
            types = [a.annotation for a in [*node.args.args, *node.args.kwonlyargs]]
            types = {
                n.id for t in [*types, node.returns] if t for n in ast.walk(t) if hasattr(n, "id")
            }
            if types & TENSORS:
                assert SHAPE.search(said), f"{node.name} takes or gives tensors of what shape?"
        for child in ast.walk(node):
            if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
                error = child.exc.func.id
                assert error in said, f"{node.name} does not say that it raises {error}"
    room = path.relative_to(ROOT / "nested").parts[0]
    if room in ROOMS and room != "support" and path.name != "__init__.py":
        assert "Source:" in path.read_text(), f"{path.name} does not name its source"
