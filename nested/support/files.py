"""Files that survive a killed program: written aside, moved into place whole, read as data."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

KINDS = {str: "text", int: "a whole number", list: "a list"}
NEARLY_FULL = 1 << 16  # free bytes of a disk below which a write failed for lack of space


def prepare_folder(path: Path | str, *names: str) -> Path:
    """Make a folder, and check that files can be written in it, above all those in ``names``.

    Raises ``ValueError`` if they cannot."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (folder / name).is_dir():
                raise ValueError(f"{name!r} is a folder where a file goes: move it away")
        write_whole(folder / ".writable", lambda temporary: temporary.write_text(""))
        (folder / ".writable").unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot write in the folder {str(folder)!r}: {reason}") from error
    return folder


def write_whole(path: Path | str, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there in one go.

    A reader, or the next run, finds the old file or the new one, never half of one. Raises
    ``ValueError`` when the file cannot be written."""
    path = Path(path)
    if not path.name or path.is_dir():
        raise ValueError(f"cannot write {str(path)!r}: a folder is no name of a file")
    temporary = path.with_name(
        f".{path.stem}.part{path.suffix}"
    )  # writers choose the format by the suffix
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # a writer may let only the owner read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        if path.parent.exists() and shutil.disk_usage(path.parent).free < NEARLY_FULL:
            reason = os.strerror(errno.ENOSPC)
        temporary.unlink(missing_ok=True)
        raise ValueError(f"cannot write {str(path)!r}: {reason}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_json(path: Path | str, content: Any) -> None:
    """Save plain data as JSON. Numbers that are not finite become null: JSON has no others.

    Raises ``ValueError`` when the file cannot be written, ``TypeError`` for content that JSON
    cannot hold."""
    text = json.dumps(_without_infinities(content), indent=1, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def _without_infinities(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_infinities(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_infinities(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def json_lines(content: bytes, name: str, kinds: dict[str, type]) -> Iterator[tuple[int, Any]]:
    """Yield (number, object) of each line of a JSONL file that is not blank.

    Each object has the fields ``kinds``, {field: kind}. Raises ``ValueError`` for another line,
    which it calls a line of ``name``."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            is_right = all(type(row[field]) is kind for field, kind in kinds.items())
        except (ValueError, KeyError, TypeError, IndexError):
            is_right = False
        if not is_right:
            wanted = ", ".join(f'"{field}": {KINDS[kind]}' for field, kind in kinds.items())
            raise ValueError(f"{name!r}, line {number}, is no JSON object {{{wanted}}}")
        yield number, row


def save_checkpoint(path: Path | str, content: dict[str, Any]) -> None:
    """Save a dict of tensors (...), numbers, strings and containers of them. Raises ``ValueError``
    when the file cannot be written."""
    write_whole(path, lambda temporary: torch.save(content, temporary))


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Load a dict that ``save_checkpoint`` saved, with its tensors (...) on the CPU.

    It never runs code from the file. Raises ``FileNotFoundError`` when there is none, and
    ``ValueError`` when it cannot be read.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no checkpoint at {str(path)!r}")
    if Path(path).is_dir():
        raise ValueError(f"{str(path)!r} is a folder, and no checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint make the reader raise anything
        raise ValueError(
            f"the checkpoint {str(path)!r} cannot be read: it is truncated, or not a checkpoint;"
            " delete it to start again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"the checkpoint {str(path)!r} does not hold a dict; delete it")
    return content
