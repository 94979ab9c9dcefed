"""Grading a folder: what counts as attempted, what points are, what the formats say."""

import csv
import io
import json
import re
import shutil

import pytest

from nested.homework.__main__ import FORMATS as NAMES
from nested.homework.__main__ import main
from nested.homework.grade import CheckReport, SlotReport, Submission, grade
from nested.homework.registry import TOML, fingerprint, read_worth
from nested.homework.report import FORMATS
from nested.homework.slots import SLOTS
from tests.homework.mutants import ANSWERS, right_answer
from tests.test_readme import ROOT

STUBS = ROOT / "examples" / "homework"


def sample(measured="all well", hint="look there"):
    checks = [
        CheckReport("it is right", 2.0, 2.0, measured, "", "python -m one"),
        CheckReport("it is fast | small", 0.0, 1.0, measured, hint, "python -m two"),
    ]
    graded = SlotReport("hw0", "One line", "graded", 3.0, False, 1.5, checks)
    return Submission("ada", [graded, SlotReport("hw1", "A family", "not attempted", 5.0, False)])


@pytest.mark.parametrize("slot", SLOTS)
def test_files_as_handed_out_are_not_attempted(slot):
    assert fingerprint(STUBS / SLOTS[slot].file) == read_worth()[slot].fingerprint, (
        f"put `python -m nested.homework fingerprint examples/homework/{SLOTS[slot].file}` into"
        " homework.toml"
    )
    (report,) = grade(STUBS, only=[slot]).slots
    assert report.status == "not attempted" and report.points == 0


def test_written_answers_and_comments_are_no_attempt(tmp_path):
    text = (STUBS / "hw2_context.py").read_text().replace("     ...", "     I think ...")
    (tmp_path / "hw2_context.py").write_text(text + "\n# and more\n")
    assert grade(tmp_path, only=["hw2"]).slots[0].status == "not attempted"


def test_missing_files_and_links_are_missing(tmp_path):
    (tmp_path / "hw0_one_detached_line.py").symlink_to(right_answer("hw0"))
    assert [slot.status for slot in grade(tmp_path, only=["hw0", "hw1"]).slots] == ["missing"] * 2


def test_a_right_answer_gets_its_points_and_a_wrong_one_a_hint_and_a_command(tmp_path):
    folder = tmp_path / "examples" / "homework"  # as in a student's repository
    folder.mkdir(parents=True)
    right = right_answer("hw0").read_text()
    path = folder / "hw0_one_detached_line.py"
    path.write_text(right)
    (slot,) = grade(tmp_path, only=["hw0"]).slots
    assert slot.points == slot.out_of == read_worth()["hw0"].points and slot.is_full
    path.write_text(right.replace("lr * buffer[name] for", "lr * buffer[name].detach() for"))
    (slot,) = grade(tmp_path, only=["hw0"], strict=True).slots
    (lost,) = [
        check for check in slot.checks if check.name == "the hypergradient of the initial weights"
    ]
    assert "is the buffer" in lost.hint and "wrong from update" in lost.hint
    command = lost.command.split(" ", 3)[3]
    assert command.startswith(f"grade {folder} --only hw0 --check ") and not slot.is_full


def test_the_command_that_a_report_gives_looks_at_that_check_alone(tmp_path, capsys):
    shutil.copy(right_answer("hw0"), tmp_path / SLOTS["hw0"].file)
    flags = ["grade", str(tmp_path), "--only", "hw0", "--check", "nothing passed in is changed"]
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert out.count("ok ") == 1 and "0.5/0.5" in out


def test_points_follow_the_weights():
    worth = read_worth()
    for name, slot in SLOTS.items():
        checks = [check.name for check in slot.checks]
        shares = [worth[name].share(check, checks) for check in checks]
        assert sum(shares) == pytest.approx(worth[name].points) and min(shares) > 0
    assert worth["hw2"].share("it earns its place", [c.name for c in SLOTS["hw2"].checks]) > 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[hw0]", "[hw9]", "has slots"),
        ("points = 5\n", "", "lacks ['points']"),
        ("points = 5\n", "points = -5\n", "numbers above 0"),
        ("on = true", "on = true\nextra = 1", "unknown ['extra']"),
        ('"it earns its place"', '"it is nice"', "checks that do not exist: ['it is nice']"),
        ("[hw0]", "[hw0", "cannot be read"),
    ],
)
def test_a_wrong_homework_toml_says_what_is_wrong(old, new, message, tmp_path):
    text = TOML.read_text()
    assert old in text
    (tmp_path / "homework.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        read_worth(tmp_path / "homework.toml")
    assert message in str(error.value)


def test_slots_that_are_off_are_left_out(tmp_path):
    (tmp_path / "homework.toml").write_text(TOML.read_text().replace("on = true", "on = false", 5))
    submission = grade(STUBS, worth=read_worth(tmp_path / "homework.toml"))
    assert [slot.slot for slot in submission.slots] == list(SLOTS)[5:]


def test_the_text_has_a_line_a_check_with_hint_and_command_where_it_failed():
    text = FORMATS["text"]([sample()])
    assert "hw0  One line: 2/3" in text and "hw1  A family: not attempted" in text
    assert "FAILED" in text and "look there" in text and "python -m two" in text
    assert "python -m one" not in text and "ada: 2 of 8 points" in text


def test_json_has_everything():
    (row,) = json.loads(FORMATS["json"]([sample()]))
    assert row["points"] == 2 and row["out_of"] == 8
    assert row["slots"][0]["checks"][1]["hint"] == "look there"


def test_markdown_cannot_be_broken_out_of():
    text = FORMATS["markdown"]([sample(measured="a | b </td> `x` [y](z) <img src=q>")])
    assert "a &#124; b" in text and "&#91;y&#93;" in text  # escaped once
    assert "<img" not in text and "</td>" not in text and "`x`" not in text and "[y](" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and all(row.count("|") == 5 for row in rows)


def test_gradescope_adds_up_and_takes_one_submission():
    results = json.loads(FORMATS["gradescope"]([sample()]))
    assert results["score"] == 2 == sum(test["score"] for test in results["tests"])
    assert sum(test["max_score"] for test in results["tests"]) == 8
    with pytest.raises(ValueError, match="takes one submission, but got 2"):
        FORMATS["gradescope"]([sample(), sample()])


def test_csv_has_a_row_a_check_and_runs_no_formulas():
    text = FORMATS["csv"]([sample(measured="=HYPERLINK(1)"), sample()])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6 and rows[0]["measured"] == "'=HYPERLINK(1)"
    assert sum(float(row["points"]) for row in rows[:3]) == 2


def test_the_command_line_offers_all_formats_and_writes_files(tmp_path, capsys):
    assert set(NAMES) == set(FORMATS)
    flags = ["grade", str(STUBS), "--only", "hw1", "--format", "json"]
    assert main([*flags, "--out", str(tmp_path / "report.json")]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "report.json").read_text())[0]["name"] == str(STUBS)
    assert main([*flags, "--strict"]) == 1, "for a teacher an untouched slot is no success"


def test_a_missing_file_is_no_success(tmp_path, capsys):
    assert main(["grade", str(tmp_path)]) == 1
    assert "missing" in capsys.readouterr().out


def test_grading_is_what_it_does_unless_told_otherwise(capsys):
    assert main(["--only", "hw0"]) == 0
    assert "not attempted" in capsys.readouterr().out


def test_several_submissions_are_graded_at_once(tmp_path, capsys):
    for name in ("ada", "bob"):
        shutil.copytree(STUBS, tmp_path / name)
    assert main(["grade", str(tmp_path / "ada"), str(tmp_path / "bob")]) == 0
    out = capsys.readouterr().out
    total = sum(worth.points for worth in read_worth().values() if not worth.bonus)
    assert f"ada: 0 of {total:g} points" in out and f"bob: 0 of {total:g} points" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["grade", "/not/there"], "is not there"),
        (["grade", __file__], "is a file; name its folder"),
        (["grade", str(STUBS), "--only", "hw77"], "there is no slot hw77"),
        (["grade", str(STUBS), "--check", "no such"], "there is no check 'no such'"),
        (["grade", str(STUBS), "--seed", "-1"], "--seed is a whole number from 0"),
        (["grade", str(STUBS), str(STUBS), "--format", "gradescope"], "takes one folder"),
        (
            ["grade", str(STUBS), "--only", "hw0", "--out", "/proc/x"],
            "cannot write in the folder '/proc'",
        ),
        (["fingerprint", "/not/there.py"], "No such file"),
    ],
)
def test_wrong_values_get_one_sentence(flags, message, capsys):
    assert main(flags) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("grading")]
    assert len(err) == 1 and err[0].startswith("error: ") and message in err[0]


def test_a_course_copy_has_no_answers(tmp_path, capsys):
    assert main(["export", str(tmp_path / "course")]) == 0
    names = {str(p.relative_to(tmp_path / "course")) for p in (tmp_path / "course").rglob("*.py")}
    assert "examples/homework/hw3_recurrent_rule.py" in names and "main.py" in names
    assert not any("answers" in name or "mutants" in name for name in names)
    for path in (tmp_path / "course").rglob("*"):
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".yml"):
            for line in right_answer("hw3").read_text().splitlines():
                if "chunk(4)" in line:
                    assert line not in path.read_text()
    assert main(["export", str(tmp_path / "course")]) == 1
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("slot", SLOTS)
def test_hardly_a_line_of_an_answer_stands_in_the_graders_own_files(slot):
    """Students read these files: a reference computation there is an answer to copy."""
    lines = {line.strip() for line in right_answer(slot).read_text().splitlines()}
    lines -= {line.strip() for line in (STUBS / SLOTS[slot].file).read_text().splitlines()}
    telling = {x for x in lines if len(x) > 40 and x.split()[0] not in ("def", "from", "import")}
    shipped = [path.read_text().splitlines() for path in TOML.parent.rglob("*.py")]
    found = telling & {line.strip() for lines in shipped for line in lines}
    assert len(found) <= len(telling) / 4, found


def test_every_slot_has_an_answer_and_a_page_of_prose():
    for slot in SLOTS.values():
        assert (ANSWERS / slot.file).exists()
        text = (STUBS / slot.file).read_text()
        for part in ("Question.", "Equation.", "Source:", "A good answer", "Two written questions"):
            assert part in text, f"{slot.file} has no {part!r}"
        assert f"python -m nested.homework grade --only {slot.name}" in text


def test_a_course_copy_grades_by_the_teachers_repository_at_a_pinned_commit(tmp_path):
    folder = tmp_path / "course"
    assert main(["export", str(folder), "--repository", "uni/meta-learning"]) == 0
    text = (folder / ".github" / "workflows" / "homework.yml").read_text()
    assert "COURSE_REPOSITORY: uni/meta-learning\n" in text
    assert re.search(r"COURSE_COMMIT: [0-9a-f]{40}\n", text)
    assert "contents: read" in text and "secrets" not in text and "timeout-minutes" in text
    assert main(["export", str(tmp_path / "other"), "--repository", "nonsense; rm"]) == 1
