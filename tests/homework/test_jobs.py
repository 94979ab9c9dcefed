"""Many submissions at once, and one start of Python for many processes: faster, and the same."""

import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import nested.homework.forks as forks
from nested.homework.grade import grade
from nested.homework.parallel import Unit, _side_by_side, count_cores, grade_all
from nested.homework.registry import read_worth
from nested.homework.sandbox import Sandbox
from nested.homework.slots import SLOTS
from nested.homework.slots.gain import learn_and_race
from nested.levels.meta_optimizer import MetaOptimizer
from nested.meta.config import MetaConfig
from nested.tasks.sum_regression import SumRegression
from tests.homework.mutants import right_answer
from tests.test_readme import ROOT

RIGHT = right_answer("hw0").read_text()
FILE = SLOTS["hw0"].file
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")


def submissions(folder):
    """Four students: right, wrong, not attempted, and one who handed in another slot alone."""
    for name in ("ada", "bob", "cyd", "dan"):
        (folder / name).mkdir()
    (folder / "ada" / FILE).write_text(RIGHT)
    (folder / "bob" / FILE).write_text(RIGHT.replace("lr * buffer", "lr.item() * buffer"))
    shutil.copy(ROOT / "examples" / "homework" / FILE, folder / "cyd")
    (folder / "dan" / SLOTS["hw1"].file).write_text("x = 1\n")
    return [folder / name for name in ("ada", "bob", "cyd", "dan")]


def without_times(found):
    rows = [asdict(submission) for submission in found]
    for row in rows:
        for slot in row["slots"]:
            slot.pop("seconds")
    return rows


def test_two_processes_find_what_one_does_in_the_same_order(tmp_path):
    folders, heard = submissions(tmp_path), []
    how = {"only": ["hw0", "hw1"], "seed": 3}
    two = grade_all(folders, jobs=2, on_slot=lambda folder, slot: heard.append(slot), **how)
    one = grade_all(folders, jobs=1, **how)
    assert without_times(one) == without_times(two)
    assert without_times(one) == without_times([grade(folder, **how) for folder in folders])
    assert [found.points for found in one] == [5, 3, 0, 0]
    assert heard == ["hw0", "hw0", "hw1"], "what is not attempted starts nothing"


def test_jobs_are_counted_from_one():
    assert count_cores() >= 1
    with pytest.raises(ValueError, match="jobs is a whole number from 1, but got 0"):
        grade_all([], jobs=0)


class Deadly(Unit):
    """A submission that finds a way to end the grader."""

    def grade(self):
        os._exit(9)


def test_a_submission_that_ends_the_grader_costs_its_own_points_alone(tmp_path):
    ada, *_ = submissions(tmp_path)
    rest = (ada, "hw0", read_worth()["hw0"], "nothing passed in is changed", 0, False)
    found = _side_by_side([Deadly((0, 0), *rest), Unit((1, 0), *rest)], 2, lambda *_: None)
    assert found[0, 0].points == 0 and found[1, 0].points == 0.5
    assert found[0, 0].out_of == 0.5 and "ends the grader" in found[0, 0].checks[0].measured


def test_a_rule_that_is_no_students_is_trained_once():
    training, rules = MetaConfig(meta_steps=2, unroll_length=2, max_horizon=2, tasks=2), []

    def race(seed):
        rules.append(MetaOptimizer())
        both = {"plain, of this test": rules[-1], "theirs": MetaOptimizer(hidden=4)}
        family = SumRegression()
        return learn_and_race(both, family, family, training, 3, seed, "plain, of this test")

    first, again, other = race(0), race(0), race(1)
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["plain, of this test"].equal(other["plain, of this test"])
    start, trained, untrained = (r.net[0].weight for r in (MetaOptimizer(), *rules[:2]))
    assert not trained.equal(start) and untrained.equal(start)


# --- one start of Python -------------------------------------------------------------------------


@on_linux
def test_slots_start_from_one_python_and_share_nothing(tmp_path):
    patch = (
        "import builtins, torch\nbuiltins.spoilt = torch.spoilt = True\ntorch.zeros_like = None\n"
    )
    proof = "import builtins, torch\nassert not hasattr(builtins, 'spoilt')\n"
    proof += "assert not hasattr(torch, 'spoilt')\n"
    for name, text in (("first", patch + RIGHT), ("second", proof + RIGHT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(text)
    assert grade(tmp_path / "first", only=["hw0"]).points == 0
    (server,) = forks._SERVERS
    assert grade(tmp_path / "second", only=["hw0"]).points == 5
    assert forks._SERVERS == [server], "the second was forked by the server of the first"


@on_linux
def test_a_fork_holds_no_door_to_its_server(tmp_path):
    proof = """
import os, sys
assert sorted(map(int, os.listdir('/proc/self/fd')))[:4] == [0, 1, 2, 3]
assert len(os.listdir('/proc/self/fd')) == 5  # and the one that lists them
assert len(os.listdir('/proc/self/task')) == 1
"""
    (tmp_path / FILE).write_text(proof + RIGHT)
    (slot,) = grade(tmp_path, only=["hw0"]).slots
    assert slot.points == 5, slot.checks[0].measured


@on_linux
def test_the_server_has_one_thread_and_knows_nothing_of_the_grader(tmp_path):
    (tmp_path / FILE).write_text(RIGHT)
    grade(tmp_path, only=["hw0"], check="nothing passed in is changed")
    about = Path(f"/proc/{forks._SERVERS[0].process.pid}")
    assert len(list((about / "task").iterdir())) == 1
    words = (about / "environ").read_bytes().split(b"\0")
    assert not any(word.startswith(b"PYTEST") for word in words)


@on_linux
def test_a_server_that_has_died_is_started_anew(tmp_path):
    (tmp_path / FILE).write_text(RIGHT)
    check = "nothing passed in is changed"
    assert grade(tmp_path, only=["hw0"], check=check).points == 0.5
    forks._SERVERS[0].process.kill()
    forks._SERVERS[0].process.wait()
    assert grade(tmp_path, only=["hw0"], check=check).points == 0.5


@on_linux
def test_the_end_of_a_fork_is_reported_as_that_of_a_process(tmp_path):
    (tmp_path / FILE).write_text("import time\n" + RIGHT)
    with Sandbox(tmp_path / FILE, "hw0", 20.0) as sandbox:
        sandbox.start()
        with pytest.raises(subprocess.TimeoutExpired):
            sandbox.process.wait(0.05)
        fork = sandbox.process
    assert fork.wait() == -9 and fork.wait(1.0) == -9
    assert not Path(f"/proc/{fork.pid}").exists()
