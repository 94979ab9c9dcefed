"""The demo as people run it: results, clear errors, and nothing lost when it is stopped."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import main
from nested import MetaOptimizer
from nested.support.files import load_checkpoint

ROOT = Path(__file__).parent.parent
TINY = ["--family", "sum", "--meta-steps", "6", "--tasks", "4", "--unroll-length", "5"]
TINY += ["--horizon", "4", "--quick"]


def run(*flags, folder):
    return main.main([*TINY, "--out", str(folder), *flags])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("runs")
    assert run(folder=folder) == 0
    return folder


def numbers(folder):
    report = json.loads((folder / "race.json").read_text())
    return {key: report[key] for key in ("config", "races", "verdict", "skipped_updates")}


def test_it_leaves_a_picture_a_table_and_a_rule(demo):
    names = ["before_after.png", "race.json", "race.png", "rule.pt", "schedule.pt"]
    assert sorted(file.name for file in demo.iterdir()) == names
    for picture in ("before_after.png", "race.png"):
        assert (demo / picture).read_bytes().startswith(b"\x89PNG")
    short, long = numbers(demo)["races"]
    assert (short["horizon"], long["horizon"]) == (4, 20) and short["tasks"] == 64
    assert "constant of the short race" in long["entries"]
    assert "untrained" in short["entries"] and "learned schedule, replayed" not in short["entries"]
    MetaOptimizer().load_state_dict(load_checkpoint(demo / "rule.pt")["rule"])
    schedule = MetaOptimizer(context=("log_step",))
    schedule.load_state_dict(load_checkpoint(demo / "schedule.pt")["rule"])


def test_it_prints_the_ladder_the_race_and_a_verdict(tmp_path, capsys):
    assert run(folder=tmp_path) == 0
    text = capsys.readouterr().out
    for piece in ("2 momentum buffer       9 numbers", "level 4 untrained", "6/6  loss", "hyper",
                  "the rule, replayed", "Nesterov", "learned schedule", "acts         moves",
                  "every batch  every 5 batches", "At 4 steps the rule"):  # fmt: skip
        assert piece in text


def test_each_column_of_the_tables_is_explained_before_them(tmp_path, capsys):
    assert run(folder=tmp_path) == 0
    explained, _, tables = capsys.readouterr().out.partition("First a race")
    head, *_ = [line for line in tables.splitlines() if "mean loss" in line]
    for column in re.split(r"\s{2,}", head.strip()):
        assert f"\n  {column}  " in explained


@pytest.mark.parametrize("stage", ["rule.pt", "schedule.pt"])
def test_without_resume_nothing_of_an_earlier_run_is_used(stage, demo, tmp_path, capsys):
    (tmp_path / stage).write_bytes(b"of an earlier run")
    assert run(folder=tmp_path) == 0
    assert numbers(tmp_path) == numbers(demo)
    previous = stage.replace(".pt", ".previous.pt")
    assert (tmp_path / previous).read_bytes() == b"of an earlier run"


def test_a_run_stopped_between_the_rule_and_the_schedule_goes_on(demo, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    (tmp_path / "rule.pt").write_bytes((demo / "rule.pt").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(main, "race_both", stop)
        assert run("--resume", folder=tmp_path) == 130
    (tmp_path / "schedule.pt").unlink()
    assert run("--resume", folder=tmp_path) == 0
    assert numbers(tmp_path) == numbers(demo)


def test_a_full_disk_gets_one_sentence(tmp_path, capsys, monkeypatch):
    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.save", no_space)
    assert run(folder=tmp_path) == 1
    error = capsys.readouterr().err
    path = tmp_path / "rule.pt"
    assert error == f"error: cannot write {str(path)!r}: No space left on device\n"


def test_the_same_seed_gives_the_same_numbers(demo, tmp_path):
    assert run(folder=tmp_path) == 0
    assert numbers(tmp_path) == numbers(demo)


def test_a_second_run_keeps_the_rule_of_the_first(tmp_path, capsys):
    run(folder=tmp_path)
    first = (tmp_path / "rule.pt").read_bytes()
    run("--seed", "1", folder=tmp_path)
    assert (tmp_path / "rule.previous.pt").read_bytes() == first
    assert "rule of an earlier run is kept" in capsys.readouterr().out


def test_resuming_a_finished_run_repeats_its_race(demo, tmp_path, capsys):
    for name in ("rule.pt", "schedule.pt"):
        (tmp_path / name).write_bytes((demo / name).read_bytes())
    assert run("--resume", folder=tmp_path) == 0
    assert numbers(tmp_path) == numbers(demo)
    assert capsys.readouterr().out.count("6/6  learned in an earlier run") == 2


def test_resume_without_a_checkpoint_says_so_and_starts(demo, tmp_path, capsys):
    assert run("--resume", folder=tmp_path) == 0
    assert "starts from the beginning" in capsys.readouterr().out
    assert numbers(tmp_path) == numbers(demo)


@pytest.mark.parametrize("family", ["digits", "quadratics"])
def test_other_families_run(family, tmp_path):
    assert run("--family", family, folder=tmp_path) == 0
    accuracy = numbers(tmp_path)["races"][0]["entries"]["Adam"]["accuracy"]
    assert (accuracy is not None) == (family == "digits")


def test_the_higher_backend_runs(tmp_path):
    flags = ["--backend", "higher", "--meta-steps", "2", "--tasks", "2", "--family", "sum"]
    assert run(*flags, folder=tmp_path) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--unroll-length", "0"], "unroll_length is a whole number from 1, but got 0"),
        (["--horizon", "0"], "--horizon is a whole number from 1, but got 0"),
        (["--meta-steps", "-1"], "meta_steps is a whole number from 1"),
        (["--tasks", "0"], "tasks is a whole number from 1"),
        (["--seed", "-5"], "seed is a whole number from 0"),
        (["--out", "/proc/nested"], "cannot write in the folder '/proc/nested'"),
    ],
)
def test_wrong_values_get_one_sentence_before_any_work(flags, message, tmp_path, capsys):
    assert run(*flags, folder=tmp_path) == 1 if "--out" not in flags else main.main(flags) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1 and "level 4" not in captured.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["race.png", "before_after.png", "race.json", "rule.pt", "rule.previous.pt", "schedule.pt"],
)
def test_a_folder_where_a_file_goes_is_found_before_any_work(name, tmp_path, capsys):
    (tmp_path / name).mkdir()
    assert run(folder=tmp_path) == 1
    captured = capsys.readouterr()
    assert (
        captured.err.count("\n") == 1 and f"{name!r} is a folder where a file goes" in captured.err
    )
    assert captured.out == "" and [path.name for path in tmp_path.iterdir()] == [name]


def test_ctrl_c_during_the_imports_just_ends_it(tmp_path):
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 2); input()")  # Ctrl-C
    process = start(tmp_path / "never", path=tmp_path)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT and out == err == ""
    assert not (tmp_path / "never").exists()


def test_a_device_this_machine_lacks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--device", "cuda", folder=tmp_path) == 1
    assert "has no cuda device that PyTorch can use" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--family", "cats"], ["--stepz", "3"], ["--tasks", "many"], ["--backend", "fast"]]
)
def test_wrong_flags_end_with_usage(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(flags)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_other_settings_or_cut_short_is_refused_and_kept(demo, tmp_path, capsys):
    path = tmp_path / "rule.pt"
    whole = (demo / "rule.pt").read_bytes()
    path.write_bytes(whole)
    assert run("--resume", "--seed", "3", folder=tmp_path) == 1
    assert "made with another config: its seed is 0, here it is 3" in capsys.readouterr().err
    path.write_bytes(whole[:2000])
    assert run("--resume", folder=tmp_path) == 1
    assert "cannot be read: it is truncated" in capsys.readouterr().err
    assert path.read_bytes() == whole[:2000]


LONGER = ["--family", "sum", "--meta-steps", "40", "--tasks", "4", "--horizon", "4", "--quick"]


def start(folder, *flags, path=ROOT):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(path)
    command = [sys.executable, str(ROOT / "main.py"), *LONGER, "--out", str(folder), *flags]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen(command, preexec_fn=hear_ctrl_c, **how)


def hear_ctrl_c():
    """What a shell starts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_killed_at_any_moment_it_resumes_to_the_numbers_of_a_run_never_killed(tmp_path):
    """Four moments here; ``tests/benchmarks/kill.py`` does thirty."""
    undisturbed = start(tmp_path / "whole")
    began = time.monotonic()
    assert undisturbed.wait() == 0
    duration = time.monotonic() - began
    for share in (0.4, 0.55, 0.65, 0.75):
        process = start(tmp_path / "killed", "--resume")
        time.sleep(share * duration)
        process.kill()
        process.wait()
        if (tmp_path / "killed" / "rule.pt").exists():
            load_checkpoint(tmp_path / "killed" / "rule.pt")
    assert start(tmp_path / "killed", "--resume").wait() == 0
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path, "--meta-steps", "5000")
    while not (tmp_path / "rule.pt").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    assert "go on with: python main.py" in out and "--resume" in out.splitlines()[-1]
    assert len(load_checkpoint(tmp_path / "rule.pt")["history"]) > 0


def test_help_is_worth_reading(capsys):
    with pytest.raises(SystemExit):
        main.main(["--help"])
    text = capsys.readouterr().out
    for flag in ("--family", "--unroll-length", "--horizon", "--meta-steps", "--tasks", "--seed",
                 "--device", "--backend", "--out", "--resume", "--quick"):  # fmt: skip
        assert flag in text
    assert "race.png" in text
