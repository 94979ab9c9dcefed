"""What the homework's README says to teachers, done as written in a fresh copy of the course."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.grader
ROOT = Path(__file__).parent.parent
EXPORT = "python -m nested.homework export ../course --repository you/your-private-course"
FINGERPRINT = "python -m nested.homework fingerprint examples/homework/hw20_name.py"
CLASS = "python -m nested.homework class DIR ..."
GRADE = "python -m nested.homework grade examples/homework --only hw0"

STUB = '''"""Homework 6. Twice.

Question. What is twice x?
"""


def twice(x):
    """Return 2 x."""
    raise NotImplementedError
'''
SLOT = '''"""Slot hw20: twice."""

import torch

from nested.conformance.check import Check, Verdict
from nested.homework.remote import call
from nested.homework.slots.slot import Slot


def _probe(twice, seed):
    x = torch.randn(3, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    y = twice(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return {"off": (y - 2 * x).abs().max().item() + (slope - 2).abs().max().item()}


def _judge(evidence):
    return Verdict(evidence["off"] < 1e-6, f"off by {evidence['off']:.1g}", "add x to itself")


SLOT = Slot(
    name="hw20",
    file="hw20_name.py",
    title="Twice",
    serve=lambda module: {"twice": lambda x: module.twice(x)},
    subject=lambda sandbox: lambda x: call(sandbox, "twice", x),
    checks=[Check("it is twice", _probe, _judge)],
)
'''


def run(command, folder, expected=0):
    """Run a command as its reader would, with the copy in ``folder`` as the package."""
    words = shlex.split(command.replace("python", sys.executable, 1))
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == expected, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy such as a student or another teacher has."""
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("teacher") / "course"
    assert "are in" in run(EXPORT.replace("../course", str(folder)), ROOT)
    return folder


def test_a_student_grades_one_slot_in_the_copy(course):
    assert "hw0  One detached line: not attempted" in run(GRADE, course)


def test_a_teacher_makes_a_table_of_a_class(course):
    untouched = course / "examples" / "homework"
    table = run(CLASS.replace("DIR ...", str(untouched)) + " --only hw0 hw_zero", ROOT)
    assert "hw0" in table and "hw_zero" in table


def test_a_new_slot_by_the_five_steps(course):
    stub = course / "examples" / "homework" / "hw20_name.py"
    slots = course / "nested" / "homework" / "slots"
    toml = course / "nested" / "homework" / "homework.toml"
    stub.write_text(STUB)  # step 1
    (slots / "hw20.py").write_text(SLOT)  # step 2
    text = (slots / "__init__.py").read_text()  # step 3
    text = text.replace("import hw0,", "import hw0, hw20,").replace("in (hw0,", "in (hw0, hw20,")
    (slots / "__init__.py").write_text(text)
    table = "\n[hw20]\non = true\npoints = 7\nseconds = 30\nfingerprint = 'none yet'\n"
    toml.write_text(toml.read_text() + table)  # step 4
    fingerprint = run(FINGERPRINT, course).strip()
    toml.write_text(toml.read_text().replace("none yet", fingerprint))
    assert "hw20  Twice: not attempted" in run("python -m nested.homework", course)
    stub.write_text(STUB.replace("raise NotImplementedError", "return 3 * x"))
    wrong = run("python -m nested.homework grade --only hw20", course, expected=1)
    assert "FAILED" in wrong and "add x to itself" in wrong
    stub.write_text(STUB.replace("raise NotImplementedError", "return 2 * x"))  # step 5
    assert "hw20  Twice: 7/7" in run("python -m nested.homework grade --only hw20", course)
