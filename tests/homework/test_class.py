"""A class in a table; and who is alike: copies are, right answers written apart are not."""

import ast
import re
from itertools import combinations
from pathlib import Path

import pytest

from nested.homework.__main__ import main
from nested.homework.classes import as_class
from nested.homework.copies import THRESHOLD, Alike, find_alike, fingerprints, likeness
from nested.homework.grade import SlotReport, Submission
from nested.homework.registry import read_worth
from nested.homework.slots import SLOTS
from tests.homework.mutants import right_answer
from tests.homework.test_grade import sample
from tests.test_readme import ROOT

STYLES = Path(__file__).parent / "styles"
FILE = SLOTS["hw3"].file
RIGHT = right_answer("hw3").read_text()


def alike(folder, texts, slot="hw3", root=ROOT):
    """Who is alike when students hand in ``texts``, {name: text}."""
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / SLOTS[slot].file).write_text(text)
    return find_alike([folder / name for name in texts], [slot], read_worth(), root)


class Renamed(ast.NodeTransformer):
    """Every name that the file gives becomes another."""

    def __init__(self, tree):
        names = {
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.ctx.__class__ is ast.Store
        }
        names |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)} - {"self"}
        self.names = {name: f"my_{i}_{name[0]}" for i, name in enumerate(sorted(names))}

    def visit_Name(self, node):
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node):
        node.arg = self.names.get(node.arg, node.arg)
        return node


def renamed(text):
    tree = ast.parse(text)
    return ast.unparse(Renamed(tree).visit(tree))


def reordered(text):
    """The functions at the end come first, and the methods backwards."""
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.body.reverse()
    first = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    rest = [node for node in tree.body if node not in first]
    return ast.unparse(ast.Module(rest[:3] + first + rest[3:], type_ignores=[]))


DISGUISES = {
    "nothing": lambda text: text,
    "names": renamed,
    "comments and docstrings": lambda text: '"""All mine."""\n'
    + text.replace(
        "):\n        seen", '):\n        """Mine."""\n        # I thought\n        seen'
    ),
    "spelling of numbers": lambda text: text.replace("0.4 *", "4e-1 *").replace(
        "(1e-3, 10.0)", "(.001, 1e1)"
    ),
    "layout": lambda text: ast.unparse(ast.parse(text)),
    "order": reordered,
    "imports": lambda text: text.replace("import torch\n", "import torch as t\n").replace(
        "torch.", "t."
    ),
    "type hints": lambda text: text.replace(
        "def init(self, params):", "def init(self, params: dict) -> dict:"
    ),
    "a line of its own": lambda text: text.replace(
        "        h = ", "        print('hello')\n        h = "
    ),
    "all of these": lambda text: reordered(renamed(text)).replace("0.4 *", "4e-1 *"),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_copy_is_alike_whatever_it_is_disguised_by(disguise, tmp_path):
    text = DISGUISES[disguise](RIGHT)
    assert text != RIGHT or disguise == "nothing"
    (group,) = alike(tmp_path, {"ada": RIGHT, "bob": text})
    assert group.students == (str(tmp_path / "ada"), str(tmp_path / "bob"))
    assert group.likeness > (
        0.99 if disguise not in ("order", "all of these", "a line of its own") else 0.8
    )


def test_right_answers_written_apart_are_not_alike(tmp_path):
    texts = {path.stem: path.read_text() for path in STYLES.glob("hw_zero_*.py")}
    texts["reference"] = right_answer("hw_zero").read_text()
    assert len(texts) == 3 and alike(tmp_path, texts, "hw_zero") == []
    for one, other in combinations(texts.values(), 2):
        assert likeness(fingerprints(one), fingerprints(other)) < THRESHOLD - 0.2


def test_what_everybody_has_is_not_counted(tmp_path):
    stub = (ROOT / "examples" / "homework" / FILE).read_text()
    lesson = (ROOT / "nested" / "levels" / "meta_optimizer.py").read_text()
    taken = stub + "\n\nX = 1\n" + lesson[lesson.index("class MetaOptimizer") :]
    assert alike(tmp_path, {"ada": taken, "bob": taken.replace("X = 1", "Y = 2")}) == []


def test_one_line_is_too_little_to_compare(tmp_path):
    right = right_answer("hw0").read_text()
    assert alike(tmp_path, {"ada": right, "bob": right}, "hw0") == []


def test_three_who_share_are_one_line_and_others_are_not_in_it(tmp_path):
    other = right_answer("hw4").read_text()  # written for another slot: what matters is the code
    texts = {"ada": RIGHT, "bob": renamed(RIGHT), "cyd": other, "dan": reordered(RIGHT)}
    (group,) = alike(tmp_path, texts)
    assert [Path(name).name for name in group.students] == ["ada", "bob", "dan"]


@pytest.mark.parametrize(
    "text", ["def f(:\n", "x = " + "-" * 10**6 + "1", "a" + ".a" * 10**5, "\0", "x = '\udc80'"]
)
def test_a_file_that_cannot_be_read_is_like_none(text, tmp_path):
    assert fingerprints(text) == frozenset()


def test_without_the_stub_it_says_what_is_missing(tmp_path):
    with pytest.raises(
        ValueError, match="is not there: run this in a checkout of the whole course"
    ):
        alike(tmp_path, {"ada": RIGHT}, root=tmp_path)


def test_the_table_has_points_means_and_who_is_alike():
    first = sample()
    second = Submission(
        "bob", [SlotReport("hw0", "One line", "missing", 3.0, False), first.slots[1]]
    )
    text = as_class([first, second], [Alike("hw0", ("ada", "bob"), 0.985)])
    rows = {
        line[: line.index("  ")]: line.split("  ")[1:] for line in text.splitlines() if "  " in line
    }
    cells = {name: [cell.strip() for cell in row if cell.strip()] for name, row in rows.items()}
    assert cells["ada"] == ["2", "-", "2"] and cells["bob"] == ["?", "-", "0"]
    assert cells["mean"] == ["1", "0", "1"] and cells["mean of those who tried"] == ["2", "-"]
    assert cells["tried by"] == ["1", "0", "2"] and cells["out of"] == ["3", "5", "8"]
    assert re.search(r"hw0 +98%  ada, bob", text) and "no proof" in text
    assert "No two files are alike." in as_class([first], [])
    with pytest.raises(ValueError, match="at least one submission"):
        as_class([], [])


def test_a_class_is_graded_and_compared_from_the_command_line(tmp_path, capsys):
    for name, text in (("ada", RIGHT), ("bob", renamed(RIGHT)), ("cyd", "def f(:\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(text + "\n1 / 0\n")  # every check is lost at once
    folders = [str(tmp_path / name) for name in ("ada", "bob", "cyd")]
    out = tmp_path / "class.txt"
    assert main(["class", *folders, "--only", "hw3", "hw7", "--jobs", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert re.search(r"cyd +0 +\? +0\n", out.read_text())
    assert re.search(rf"hw3  100%  {folders[0]}, {folders[1]}\n", out.read_text())
