"""What the README says is so: its code runs, CI or a test runs its commands, its links exist.

The same holds for the pages beside the lessons and the homework."""

import re
from pathlib import Path

import pytest

from nested import MetaOptimizer
from nested.homework.registry import read_worth

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = [ROOT / "nested" / room / "README.md" for room in ("language", "continual")]
PAGES = [ROOT / "README.md", *ROOMS]
PAGES += sorted((ROOT / "examples").rglob("*.md"))


def blocks(language, text=README):
    found = re.findall(rf"(```|~~~){language}\n(.*?)\1", text, flags=re.DOTALL)
    return [block for _, block in found]


def test_its_code_runs_and_gives_level_4_a_gradient():
    excerpt, code = blocks("python")
    file = (ROOT / "examples" / "00_one_file.py").read_text()
    for line in excerpt.splitlines():
        assert line.split("  #")[0].strip() in file, "the page opens with lines of lesson 00"
    names = {}
    exec(code, names)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in names["rule"].parameters())


def test_the_code_of_the_language_page_recalls_a_fact():
    (code,) = blocks("python", PAGES[1].read_text())
    names = {}
    exec(code, names)
    assert names["answer"] == " 4821." and names["state"] is not None


def test_the_code_of_the_page_on_continual_learning_learns():
    (code,) = blocks("python", PAGES[2].read_text())
    names = {}
    exec(code, names)
    assert names["result"].matrix[-1].mean() > 0.4  # fine-tuning has 0.2


UNTESTED = {  # they need packages that nothing else needs, or write to the repository
    "pip install jupytext jupyterlab",
    "jupyter lab examples",
    "python -m tests.test_examples --write 01",
}


def commands():
    """Every command that a page shows, in a block or between backticks."""
    lines = []
    pages = [page for page in PAGES if page.name != "results.md"]  # its commands take hours
    for text in (page.read_text() for page in pages):
        shown = (line for block in blocks("bash", text) for line in block.splitlines())
        lines += [part.strip() for line in shown for part in line.split("#")[0].split("&&")]
        lines += re.findall(r"`((?:python|pytest|pip)[^`\n]*)`", text)
    return sorted({line for line in lines if line and "venv" not in line} - UNTESTED)


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


def test_the_benchmarks_that_results_md_names_exist():
    text = (ROOT / "examples" / "results.md").read_text()
    names = set(re.findall(r"python -m tests\.benchmarks\.(\w+)", text))
    assert names
    assert all((ROOT / "tests" / "benchmarks" / f"{name}.py").exists() for name in names)


def test_ci_calls_the_same_script_everywhere():
    path = ROOT / ".github" / "workflows" / "ci.yml"
    if not path.exists():
        pytest.skip("a course copy, whose students' style is their own")
    workflow = path.read_text()
    assert "bash .ci/run" in workflow
    assert all(f'"3.{minor}"' in workflow for minor in (10, 11, 12, 13))


def links():
    for page in PAGES:
        for link in sorted(set(re.findall(r"\]\(([^)\s]+)\)", page.read_text()))):
            if not link.startswith("http"):
                yield str(page.relative_to(ROOT)), link


@pytest.mark.parametrize("page, link", list(links()))
def test_links_lead_somewhere(page, link):
    name, _, section = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    assert target.exists()
    if section:
        titles = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
        assert section in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]


def test_the_functions_that_paper_md_names_exist():
    text = (ROOT / "examples" / "paper.md").read_text()
    rows = re.findall(r"\(\.\./(nested/\w+/\w+\.py)\): ((?:`\w+`(?:, )?)+)", text)
    assert len(rows) > 15
    for path, names in rows:
        source = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            is_there = rf"^(class|def) {name}\b|\b{name}: (float|int)"
            assert re.search(is_there, source, flags=re.MULTILINE), f"{path} has no {name}"


def test_the_numbers_of_the_ladder_are_right():
    assert f"{sum(p.numel() for p in MetaOptimizer().parameters())} numbers" in README


def test_the_homework_page_says_what_homework_toml_says():
    text = (ROOT / "examples" / "homework" / "README.md").read_text()
    for slot, worth in read_worth().items():
        numbers = rf"{worth.minutes:g} \| {worth.difficulty} of 5"
        assert re.search(rf"^\| \[{slot}\].*\| {numbers} \|$", text, flags=re.MULTILINE), slot


def test_the_readme_is_short():
    assert len(README.split()) < 2000
