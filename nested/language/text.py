"""Prepared text: the tokens of many documents in memory-mapped files, split for good.

A folder holds the tokens in shards, tokens-00000.bin and more. train.npy and held_out.npy are
indexes of documents. about.json is written last: without it there is no prepared text.
Letters: N documents, T tokens.
Source: memory-mapped shards as in nanoGPT.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from nested.language.coder import END, ByteCoder, Coder, coder_from, special, train_pairs
from nested.support.checks import check_counts
from nested.support.files import prepare_folder, save_json, write_whole
from nested.support.filters import FilterConfig, Filters
from nested.tasks.sources import documents

VERSION, ABOUT = 1, "about.json"
SHARD = 1 << 26  # tokens, after which a new file begins
LEARN_FROM = 1 << 25  # bytes of text from which a BPE is learned
SIDES = ("train", "held_out")


class Documents:
    """The documents of one side, as tokens. ``index`` (N, 3) holds the shard, the first token and
    the number of tokens of each."""

    def __init__(self, shards: list[np.ndarray], index: np.ndarray) -> None:
        self._shards, self.index = shards, index

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each document (N,), with its end."""
        return self.index[:, 2]

    def tokens(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return tokens ``start`` to ``stop`` of document ``i``, (T,) int64. The last one of a
        document is its end."""
        shard, first, length = self.index[i].tolist()
        part = slice(first + start, first + min(length, length if stop is None else stop))
        return self._shards[shard][part].astype(np.int64)


class Text:
    """Prepared text in a ``folder``, as ``prepare`` makes it.

    ``coder`` turns its tokens into bytes, ``train`` and ``held_out`` are ``Documents``, and
    ``about`` holds the statistics. Raises ``ValueError`` if there is none, or only a part of it.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        try:
            self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if self.about["version"] != VERSION:
                raise ValueError(f"version {self.about['version']}, not {VERSION}")
            self.coder = coder_from(self.about["coder"])
            shards = [_mapped(folder / name, count) for name, count in self.about["shards"].items()]
            sides = [np.load(folder / f"{side}.npy", allow_pickle=False) for side in SIDES]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(folder)!r} holds no whole prepared text ({error}): make it with"
                " python -m nested.language prepare"
            ) from error
        self.train, self.held_out = (Documents(shards, index) for index in sides)


def _mapped(path: Path, count: int) -> np.ndarray:
    tokens = np.memmap(path, dtype=np.uint32 if path.suffix == ".bin4" else np.uint16, mode="r")
    if len(tokens) != count:
        raise ValueError(f"{path.name} has {len(tokens)} of {count} tokens")
    return tokens


def prepare(
    sources: Iterable[str],
    out: Path | str,
    *,
    vocab: int | None = None,
    filters: FilterConfig | None = None,
    held_out: float = 0.15,
    limit: int | None = None,
    show: Callable[[str], None] = print,
) -> Text:
    """Turn the documents of ``sources`` into tokens in the folder ``out``, and show statistics.

    Tokens are bytes, or with ``vocab`` those of a BPE. It is learned from the first 32 MiB of the
    documents that are kept and not held out. A document is held out if a hash of its bytes, from 0
    to 1, is under ``held_out``. So it stays on its side, whatever comes with it. If no document is,
    the one with the smallest hash is held out. Of a single document, the last part is. ``limit``
    ends after that many documents. Raises ``ValueError`` for a share not between 0 and 1, and when
    one side has no text.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share between 0 and 1, but got {held_out}")
    check_counts(limit=1 if limit is None else limit)
    sources, folder = list(sources), prepare_folder(out)
    (folder / ABOUT).unlink(missing_ok=True)
    read, settings = partial(_all, sources, limit), filters or FilterConfig()
    learn_from = partial(_to_learn_from, read(), Filters(settings), held_out)
    coder = ByteCoder() if vocab is None else train_pairs(learn_from(), vocab)
    kept, writer, hashes, size = Filters(settings), _Writer(folder, coder), [], 0
    for _, document in read():
        text = kept.keep(document)
        if text is not None:
            writer.add(coder.encode(text) + [special(coder, END)])
            hashes.append(_share(text))
            size += len(text)
    if not hashes:
        raise ValueError(f"no document of {', '.join(sources)} is left: {_counted(kept)}")
    shards, index = writer.finish(), np.array(writer.index, dtype=np.int64)
    sides = dict(zip(SIDES, _split(index, np.array(hashes), held_out)))
    _check_sides(sides)
    for side, rows in sides.items():
        write_whole(folder / f"{side}.npy", lambda path, rows=rows: np.save(path, rows))
    about = {"version": VERSION, "coder": coder.about(), "shards": shards, "sources": sources}
    about |= {"documents": dict(kept.counts), "bytes": size, "vocab": vocab}
    save_json(folder / ABOUT, about)
    show(f"documents: {_counted(kept)}")
    show(f"{size:,} bytes, tokens from 0 to {coder.vocab - 1:,}, {len(shards)} shards")
    for side, rows in sides.items():
        show(f"{side}: {len(rows):,} documents, {rows[:, 2].sum():,} tokens")
    return Text(folder)


def _all(sources: list[str], limit: int | None) -> Iterator[tuple[str, bytes]]:
    return islice((document for source in sources for document in documents(source)), limit)


def _counted(filters: Filters) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in filters.counts.most_common())


def _to_learn_from(
    found: Iterable[tuple[str, bytes]], filters: Filters, held_out: float
) -> list[str]:
    """The texts for training, or all if there are none: a single document has both sides."""
    sides, left = ([], []), LEARN_FROM
    for _, document in takewhile(lambda _: left > 0, found):
        text = filters.keep(document) or b""
        sides[_share(text) < held_out].append(text[:left].decode("utf-8", "ignore"))
        left -= len(text)
    return [text for text in sides[0] if text] or sides[1]


def _share(text: bytes) -> float:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def _split(index: np.ndarray, hashes: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows (N, 3) of an index into those for training and those held out."""
    if len(index) == 1:
        shard, first, length = index[0].tolist()
        left = max(1, round(length * (1 - share)))
        rows = [[shard, first, left], [shard, first + left, length - left]]
        return np.array(rows[:1]), np.array(rows[1:])
    is_out = hashes < share
    if not is_out.any() or is_out.all():
        is_out = hashes == hashes.min()
    return index[~is_out], index[is_out]


def _check_sides(sides: dict[str, np.ndarray]) -> None:
    for side, rows in sides.items():
        if not len(rows) or rows[:, 2].max() < 2:
            raise ValueError(f"the side {side} has no text: give more, or longer, documents")


class _Writer:
    """Writes documents into shards, one after the other. ``index`` has a row for each."""

    def __init__(self, folder: Path, coder: Coder) -> None:
        self.index: list[tuple[int, int, int]] = []
        self._folder, self._parts, self._count, self._shards = folder, [], 0, {}
        self._wide = coder.vocab > 1 << 16

    def add(self, tokens: list[int]) -> None:
        if self._count >= SHARD:
            self._write()
        self._parts.append(np.array(tokens, dtype=np.uint32 if self._wide else np.uint16))
        self.index.append((len(self._shards), self._count, len(tokens)))
        self._count += len(tokens)

    def _write(self) -> None:
        name = f"tokens-{len(self._shards):05d}.bin" + "4" * self._wide
        tokens = np.concatenate(self._parts)
        write_whole(self._folder / name, lambda path: tokens.tofile(path))
        self._shards[name], self._parts, self._count = len(tokens), [], 0

    def finish(self) -> dict[str, int]:
        self._write()
        return self._shards
