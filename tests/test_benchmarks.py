"""The long benchmarks of models start, resume, and say what is wrong with their arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

QUICK = {
    "paper": [
        "--tasks",
        "(aa)*",
        "memorisation",
        "--models",
        "self-modifying",
        "LSTM",
        "--out",
        ".",
    ],
    "continuum": ["--mixers", "delta rule"],
    "recall": ["--png", "recall.png"],
    "mixers": ["--mixers", "linear"],
}


def run(name, folder, *arguments):
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.lessons
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_benchmark_ends_and_is_not_made_twice(name, tmp_path):
    arguments = ["--quick", "--runs", "runs.json", *QUICK[name]]
    first = run(name, tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    assert " min left  " in first.stdout
    assert json.loads((tmp_path / "runs.json").read_text())
    again = run(name, tmp_path, *arguments)
    assert " min left  " not in again.stdout
    assert again.stdout == "".join(
        line for line in first.stdout.splitlines(True) if " min left  " not in line
    )


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', None])
def test_a_file_that_holds_no_runs_is_refused_in_one_line(name, content, tmp_path):
    path = tmp_path / "runs.json"
    path.write_text(content) if content else path.mkdir()
    result = run(name, tmp_path, "--quick", "--runs", "runs.json", *QUICK[name])
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "--runs runs.json" in result.stderr.splitlines()[-1]
