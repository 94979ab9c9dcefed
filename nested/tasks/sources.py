"""Where texts come from: the Shakespeare slice, files, folders, Python's library, data sets.

Source: the file formats; streaming of data sets by the library ``datasets``.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from nested.support.extras import needed
from nested.support.files import json_lines

DATA = Path(__file__).parent / "data"
NAMED = {name: DATA / name for name in ("shakespeare", "spanish")}
NAMED["stdlib"] = Path(sysconfig.get_paths()["stdlib"])
SKIPPED = {"site-packages", "__pycache__", "node_modules"}
HUB = "hub:"  # then path[:name[:split[:column]]], a data set of the library datasets


def documents(source: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of each document of ``source``, always in the same order.

    A source is a file, or a folder with its subfolders, without linked ones. Each line of a .jsonl
    file is a document, {"text": ...}. Named sources are "shakespeare", 27 plays, "spanish", three
    gospels, and "stdlib", Python's standard library. The source "hub:path:name:split:column" is a
    data set of the library ``datasets``; all but the path can be left out. Raises ``ValueError`` if
    there is no such source, or if it cannot be read.
    """
    if source.startswith(HUB):
        yield from _hub_documents(source)
        return
    path = NAMED.get(source, Path(os.path.expanduser(source)))
    if not source or not path.exists():
        raise ValueError(
            f"there is no text at {source!r}: give a file, a folder, {' or '.join(NAMED)}, or"
            f" {HUB}PATH for a data set"
        )
    for file in _files(path, only=".py" if source == "stdlib" else ""):
        name = file.name if file == path else file.relative_to(path).as_posix()
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read {str(file)!r}: {error.strerror}") from error
        if file.suffix == ".jsonl":
            for number, row in json_lines(content, name, {"text": str}):
                yield f"{name}:{number}", row["text"].encode("utf-8", "surrogatepass")
        else:
            yield name, content


def _files(path: Path, only: str) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for child in sorted(path.iterdir()):
        if child.name.startswith(".") or child.name in SKIPPED:
            continue
        if child.is_dir() and not child.is_symlink():  # a link can lead back to where it stands
            yield from _files(child, only)
        elif child.is_file() and child.name.endswith(only):
            yield child


def _hub_documents(source: str) -> Iterator[tuple[str, bytes]]:
    path, name, split, column, *more = [*source.removeprefix(HUB).split(":"), "", "", ""]
    if not path or any(more):
        raise ValueError(f"a data set is {HUB}path[:name[:split[:column]]], but got {source!r}")
    library = needed("datasets", "datasets")
    split, column = split or "train", column or "text"
    try:
        rows = library.load_dataset(path, name or None, split=split, streaming=True)
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"cannot load the data set {path!r}: {error}") from error
    for number, row in enumerate(rows):
        if not isinstance(row.get(column), str):
            raise ValueError(f"{path!r} has no text in {column!r}; its columns: {sorted(row)}")
        yield f"{path}:{number}", row[column].encode("utf-8", "surrogatepass")
