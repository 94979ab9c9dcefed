"""A copy of the course for students: everything that is here, but the reference answers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import nested

ROOT = Path(nested.__file__).parents[1]
WORKFLOW = ".github/workflows/homework.yml"
KEPT_BACK = ("tests/homework/",)  # right answers, and wrong ones with what is wrong with them


def export(folder: Path | str, repository: str = "", root: Path = ROOT) -> list[str]:
    """Copy the files that git knows, except the reference answers, to a new or empty ``folder``;
    return their names. With ``repository`` ("owner/name" of the teacher's) the copy's workflow
    grades by that one, at the present commit. Raises ``ValueError`` when that cannot be done."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is not an empty folder; name one that is not there yet")
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"a repository is called owner/name, but got {repository!r}")
    listed = _git("ls-files", "-z", root=root).split("\0")
    names = [name for name in listed if name and not name.startswith(KEPT_BACK)]
    names = [name for name in names if (root / name).is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)
    if repository:
        _pin(folder / WORKFLOW, repository, _git("rev-parse", "HEAD", root=root).strip())
    return names


def _git(*arguments: str, root: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{str(root)!r} is no git checkout with a commit: {done.stderr.strip()}")
    return done.stdout


def _pin(workflow: Path, repository: str, commit: str) -> None:
    text = workflow.read_text(encoding="utf-8")
    for key, value in (("COURSE_REPOSITORY", repository), ("COURSE_COMMIT", commit)):
        text = re.sub(rf"^(  {key}:).*$", rf"\1 {value}", text, count=1, flags=re.MULTILINE)
    workflow.write_text(text, encoding="utf-8")
