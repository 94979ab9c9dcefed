"""``pytest -m homework`` grades the files in examples/homework, a test a slot; it is not run by
default, as what is not attempted cannot pass."""

from pathlib import Path

import pytest

from nested.homework.grade import grade
from nested.homework.registry import read_worth
from nested.homework.report import as_text

HOMEWORK = Path(__file__).parent.parent / "examples" / "homework"


@pytest.mark.homework
@pytest.mark.parametrize("slot", [name for name, worth in read_worth().items() if worth.on])
def test_homework(slot):
    submission = grade(HOMEWORK, only=[slot])
    (report,) = submission.slots
    if report.status != "graded":
        pytest.skip(f"{slot} is {report.status}")
    assert report.is_full, "\n" + as_text([submission])
