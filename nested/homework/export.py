"""Copy the course for students: the last commit, without the reference answers."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path

import nested

ROOT = Path(nested.__file__).parents[1]
WORKFLOW = ".github/workflows/homework.yml"
KEPT_BACK = (
    "tests/homework",  # right answers, and wrong ones with their faults
    ".github/workflows/ci.yml",  # it would check students' files for style
)


def export(
    folder: Path | str, repository: str = "", root: Path = ROOT
) -> tuple[list[str], list[str]]:
    """Copy the last commit, without ``KEPT_BACK``, to a new or empty ``folder``.

    Returns the names of the copied files, and of those left out because they are not committed.
    With ``repository`` (the teacher's, as "owner/name") the copy's workflow grades with that
    repository at this commit. Raises ``ValueError`` when that cannot be done.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is not an empty folder; name one that is not there yet")
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"a repository is called owner/name, but got {repository!r}")
    changed = _git("status", "--porcelain", root=root).decode().splitlines()
    forgotten = [line[3:] for line in changed if line.startswith("?? ") and _is_part(line[3:])]
    if forgotten:
        raise ValueError(f"not under git yet: {', '.join(forgotten)}; git add and commit first")
    others = [f":(exclude){path}" for path in KEPT_BACK]
    archive = _git("archive", "--format=tar", "HEAD", "--", ".", *others, root=root)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        names = [entry.name for entry in files if entry.isfile()]
        files.extractall(folder, filter="data")
    if repository:
        _pin(folder / WORKFLOW, repository, _git("rev-parse", "HEAD", root=root).decode().strip())
    return names, [line[3:] for line in changed]


def _is_part(name: str) -> bool:
    return name.startswith(("nested/", "examples/homework/"))


def _git(*arguments: str, root: Path) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise ValueError(f"{str(root)!r} is no git checkout with a commit: {message}")
    return done.stdout


def _pin(workflow: Path, repository: str, commit: str) -> None:
    text = workflow.read_text(encoding="utf-8")
    for key, value in (("COURSE_REPOSITORY", repository), ("COURSE_COMMIT", commit)):
        text = re.sub(rf"^(  {key}:).*$", rf"\1 {value}", text, count=1, flags=re.MULTILINE)
    workflow.write_text(text, encoding="utf-8")
