"""hw_zero: the tasks are graded one by one, and other styles are as right as the reference."""

import ast
import shutil
from pathlib import Path

import pytest

from nested.conformance.check import run_check
from nested.homework.grade import grade
from nested.homework.slots import SLOTS
from tests.homework.mutants import Box, right_answer

SLOT = SLOTS["hw_zero"]
STYLES = Path(__file__).parent / "styles"
STUB = Path(__file__).parents[2] / "examples" / "homework" / SLOT.file


@pytest.mark.parametrize(("style", "seed"), [("functional", 7), ("plain", 8)])
def test_another_style_gets_all_points(style, seed, tmp_path):
    shutil.copy(STYLES / f"hw_zero_{style}.py", tmp_path / SLOT.file)
    (slot,) = grade(tmp_path, only=["hw_zero"], seed=seed).slots
    assert slot.points == slot.out_of, [c for c in slot.checks if not c.points]


def test_the_file_is_empty_but_for_its_prose():
    tree = ast.parse(STUB.read_text())
    assert ast.get_docstring(tree) and len(tree.body) == 1


@pytest.mark.parametrize(("parts", "task"), [(1, "1"), (2, "2"), (3, "3")])
def test_a_task_is_graded_before_the_next_is_written(parts, task, tmp_path):
    text = right_answer("hw_zero").read_text()
    blocks = text.split("\n\n\n")  # imports, then a block for each task
    (tmp_path / SLOT.file).write_text("\n\n\n".join(blocks[: 1 + parts]) + "\n")
    box = Box(tmp_path / SLOT.file, "hw_zero")
    for check in SLOT.checks:
        if not check.name[0].isdigit():
            continue
        verdict = run_check(check, SLOT.subject(box)).verdict
        assert verdict.passed == (check.name[0] <= task), (check.name, verdict)
        if check.name[0] > task:
            assert "is not in the file yet" in verdict.measured
            assert verdict.hint == "this part is not written yet"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import nested", "nested"),
        ("from nested.unroll import unroll as mine", "nested.unroll unroll"),
        ("    import higher", "higher"),
        ("from importlib import import_module", "importlib import_module"),
    ],
)
def test_whatever_is_not_written_from_zero_is_named(line, found, tmp_path):
    text = right_answer("hw_zero").read_text()
    end = f"\n\ndef later():\n    pass\n{line}\n"
    (tmp_path / SLOT.file).write_text(text + end)
    (check,) = [check for check in SLOT.checks if check.name == "it is written from zero"]
    verdict = run_check(check, SLOT.subject(type("", (), {"file": tmp_path / SLOT.file}))).verdict
    assert not verdict.passed and verdict.measured.endswith(f": {found}")
