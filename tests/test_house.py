"""The house: imports point down, files and functions stay small, public names are documented."""

import ast
import inspect
import io
import re
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "nested").rglob("*.py"))
# what each room may import; a room may always import itself
ROOMS = {
    "support": set(),
    "levels": set(),
    "unroll": {"support", "levels"},
    "fast": {"support", "levels", "unroll"},
    "tasks": {"support", "levels", "unroll"},
    "meta": {"support", "levels", "unroll", "tasks"},
    "rules": {"support", "levels", "unroll", "tasks", "meta", "optim"},
    "optim": {"support", "levels"},
    "memory": {"support", "levels"},
    "models": {"support", "levels", "memory"},
    "conformance": {"support", "levels", "unroll", "tasks", "meta", "rules", "optim", "memory"},
}
LADDER = [*(ROOT / "nested" / "levels").glob("*.py"), ROOT / "nested" / "unroll" / "eager.py"]


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module


def lines_of_code(source):
    """The lines of ``source`` that hold code: no blank ones, comments or docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


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
        "homework",
        "language",
        "continual",
    }


@pytest.mark.parametrize("path", LADDER, ids=lambda p: p.name)
def test_the_ladder_imports_only_itself_and_torch(path):
    for module in imported_modules(path):
        top, *rest = module.split(".")
        assert top in {"torch", *sys.stdlib_module_names} or rest[0] in ("levels", "unroll")


def test_the_loop_has_at_most_ten_statements():
    tree = ast.parse(LADDER[-1].read_text())
    (loop,) = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    assert sum(isinstance(node, ast.stmt) for node in ast.walk(loop)) - 1 <= 10


def test_nobody_but_the_package_itself_imports_the_fast_room():
    for path in FILES:
        if path.relative_to(ROOT / "nested").parts[0] not in ("fast", "__init__.py"):
            assert not any(module.startswith("nested.fast") for module in imported_modules(path))


def test_the_ladder_reads_in_an_evening():
    assert sum(lines_of_code(path.read_text()) for path in LADDER) < 400


@pytest.mark.parametrize("path", [*FILES, ROOT / "main.py"], ids=lambda p: p.name)
def test_files_and_functions_stay_small(path):
    source = path.read_text()
    assert lines_of_code(source) < 250
    assert not set(path.parts) & {"utils", "helpers", "misc", "common"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name != "parse":  # a list of flags
            code = lines_of_code(textwrap.dedent(ast.get_source_segment(source, node, padded=True)))
            assert code <= 40, f"{node.name} in {path.name} has {code} lines"


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


TENSORS = {"Tensor", "Params", "State", "Batch", "Trajectory", "Step"}
ITEM = r"(\.\.\.|[A-Z0-9]+( [+-] \d+)?)"
SHAPE = re.compile(rf"(^|[\s:])\(({ITEM}(, {ITEM})*,?)?\)")  # (...), (T, K + 1), (B,), ()


def public_functions(path):
    """Each public function and method of a file, with all that is said about it: its own docstring
    or, where it has none, the one it inherits; and for a method, that of its class."""
    module = pytest.importorskip(
        ".".join(path.relative_to(ROOT).with_suffix("").parts),
        reason="an extra is not installed",
        exc_type=ModuleNotFoundError,
    )
    for name, value in vars(module).items():
        if name[0] == "_" or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value, inspect.getdoc(value) or ""
        elif inspect.isclass(value):
            around = inspect.getdoc(value) or ""
            for method, function in vars(value).items():
                if not inspect.isfunction(function) or "<string>" in function.__code__.co_filename:
                    continue
                if method in ("__init__", "__post_init__"):
                    yield f"{name}.{method}", function, around
                elif method[0] != "_":
                    said = inspect.getdoc(getattr(value, method))
                    assert said, f"{name}.{method} has no docstring, of its own or inherited"
                    yield f"{name}.{method}", function, f"{said} {around}"


def raised(function, module, seen):
    """The exceptions that a function raises itself, or through private functions of its file."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            yield getattr(error, "id", getattr(error, "attr", ""))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "")[:1] == "_":
            private = vars(module).get(node.func.id)
            if inspect.isfunction(private) and private not in seen:
                yield from raised(private, module, seen | {private})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_docstrings_give_shapes_errors_and_source(path):
    for name, function, said in public_functions(path):
        module = inspect.getmodule(function)
        types = set(re.findall(r"\w+", str(list(inspect.signature(function).parameters.values()))))
        types |= set(re.findall(r"\w+", str(inspect.signature(function).return_annotation)))
        if types & TENSORS and "__" not in name:
            assert SHAPE.search(said), f"{name} takes or gives tensors of what shape?"
        for error in raised(function, module, frozenset()):
            if error[:1].isupper():  # not `raise error`
                assert error in said, f"{name} does not say that it raises {error}"
    room = path.relative_to(ROOT / "nested").parts[0]
    if room not in ("support", "homework", "__init__.py") and path.name != "__init__.py":
        assert "Source:" in ast.get_docstring(ast.parse(path.read_text())), path.name
