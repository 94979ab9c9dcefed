"""A copy of the course for students: everything that is here, but the reference answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nested

ROOT = Path(nested.__file__).parents[1]
KEPT_BACK = ("tests/homework/",)  # right answers, and wrong ones with what is wrong with them


def export(folder: Path | str, root: Path = ROOT) -> list[str]:
    """Copy the files that git knows, except the reference answers, to a new or empty ``folder``;
    return their names. Raises ``ValueError`` when that cannot be done."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is not an empty folder; name one that is not there yet")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        raise ValueError(f"{str(root)!r} is no git checkout: {listed.stderr.strip()}")
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith(KEPT_BACK)]
    names = [name for name in names if (root / name).is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)
    return names
