"""What the README says is so: its code runs, CI or a test runs its commands, its links exist."""

import re
from pathlib import Path

import pytest

from nested import MetaOptimizer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_its_code_runs_and_gives_level_4_a_gradient():
    (code,) = blocks("python")
    names = {}
    exec(code, names)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in names["rule"].parameters())


def commands():
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"`((?:python|pytest|pip)[^`\n]*)`", README)
    return sorted({line for line in lines if line and "venv" not in line})


@pytest.mark.parametrize("command", commands())
def test_every_command_is_run_by_ci_or_a_test(command):
    run_by_ci = (ROOT / ".ci" / "run").read_text()
    lesson = re.fullmatch(r"python examples/(\w+)\.py", command)
    if lesson:
        assert f'run_lesson("{lesson[1]}"' in (ROOT / "tests" / "test_examples.py").read_text()
    elif command.startswith("python -m nested.homework") and len(command.split()) > 3:
        assert f'"{command}"' in (ROOT / "tests" / "test_new_slot.py").read_text()
    else:
        assert re.search(rf"^ *{re.escape(command)}( --out .*)?$", run_by_ci, flags=re.MULTILINE)


def test_ci_calls_the_same_script_everywhere():
    path = ROOT / ".github" / "workflows" / "ci.yml"
    if not path.exists():
        pytest.skip("a course copy, whose students' style is their own")
    workflow = path.read_text()
    assert "bash .ci/run" in workflow
    assert all(f'"3.{minor}"' in workflow for minor in (10, 11, 12, 13))


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_the_numbers_of_the_ladder_are_right():
    assert f"{sum(p.numel() for p in MetaOptimizer().parameters())} numbers" in README


def test_the_readme_is_short():
    assert len(README.split()) < 2000
