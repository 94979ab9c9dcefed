"""Data to learn from: digits, glyphs, Fashion-MNIST, CIFAR-100, folders, drift, and texts.

Letters: N examples, H and W the sides of an image, F features.
Source: the formats of the files: IDX, image folders, and data sets of the library ``datasets``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from nested.tasks.digits import load_digits
from nested.tasks.glyphs import CHARACTERS, SIDE, draw_glyphs
from nested.tasks.images import read_cifar100, read_idx, read_image_folder
from nested.tasks.labelled import LabelledData, labelled, only_classes
from nested.tasks.sources import documents

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian puts it
FASHION_NAMES = "T-shirt trouser pullover dress coat sandal shirt sneaker bag boot".split()
FASHION_CATEGORIES = (0, 1, 0, 0, 0, 2, 0, 2, 3, 2)  # tops, trousers, shoes, bags
PIECE, FEATURES = 200, 512  # bytes of a text that is one example; numbers it becomes
MOST_PIECES = 400  # of each class of texts
LANGUAGES = ("shakespeare", "spanish", "stdlib")


def load_data(name: str, path: str | None = None, seed: int = 0) -> LabelledData:
    """Load the data ``name`` of ``DATA``, from ``path`` where they are files.

    Raises ``ValueError`` for an unknown name, for a path that data do not have, and for files that
    are missing or cannot be read."""
    if name not in DATA:
        raise ValueError(f"data are one of {', '.join(DATA)}, but got {name!r}")
    load = DATA[name]
    if name in FROM_FILES:
        return load(path, seed)
    if path is not None:
        raise ValueError(f"{name} come with the package, so they take no path: leave it out")
    return load(seed)


def digits(seed: int = 0) -> LabelledData:
    """Load 1,797 digits, images (N, 8, 8). Categories: even and odd."""
    x, y = load_digits()
    return labelled(x.view(-1, 8, 8), y, categories=[label % 2 for label in range(10)], seed=seed)


def glyphs(seed: int = 0) -> LabelledData:
    """Draw half of the characters, those on which no rule was taught, as ``all_glyphs`` does."""
    data = all_glyphs(seed)
    return only_classes(data, range(1, data.classes, 2))


def all_glyphs(seed: int = 0) -> LabelledData:
    """Draw characters in nine fonts at nine places, images (N, 12, 12). Domains are the fonts."""
    drawn = draw_glyphs()  # (characters, fonts, 14, 14)
    windows = drawn.unfold(2, SIDE, 1).unfold(3, SIDE, 1).flatten(2, 3)
    count, fonts, places = windows.shape[:3]
    y = torch.arange(count)[:, None, None].expand(count, fonts, places).flatten()
    domains = torch.arange(fonts)[None, :, None].expand(count, fonts, places).flatten()
    noise = torch.randn(windows.shape, generator=Generator().manual_seed(seed))
    x = (windows + 0.1 * noise).flatten(0, 2)
    groups = [0 if c.isdigit() or not c.isalpha() else 1 + c.isupper() for c in CHARACTERS]
    names = list(CHARACTERS)
    return labelled(x, y, names=names, domains=domains, categories=groups, seed=seed)


def drift(seed: int = 0) -> LabelledData:
    """Draw four clouds of points in the plane that turn by a quarter over ten domains, (N, 2)."""
    generator, count = Generator().manual_seed(seed), 4000
    y = torch.randint(4, (count,), generator=generator)
    domains = torch.randint(10, (count,), generator=generator)
    angle = math.pi / 2 * (y + domains / 10)
    centres = torch.stack([angle.cos(), angle.sin()], dim=-1)
    x = centres + 0.3 * torch.randn(count, 2, generator=generator)
    return labelled(x, y, domains=domains, categories=(0, 1, 0, 1), seed=seed)


def fashion(path: str | None = None, seed: int = 0) -> LabelledData:
    """Load Fashion-MNIST from the IDX files in the folder ``path``, images (N, 28, 28).

    Classes have their names and categories if ``path`` says "fashion", because MNIST has files of
    the same names. Raises ``ValueError`` as ``read_idx`` does."""
    folder = Path(path or FASHION)
    sides = []
    for side in ("train", "t10k"):
        images = read_idx(folder, f"{side}-images-idx3-ubyte")
        sides.append((images.float() / 255, read_idx(folder, f"{side}-labels-idx1-ubyte")))
    is_fashion = path is None or "fashion" in str(path).lower()
    more = {"names": FASHION_NAMES, "categories": FASHION_CATEGORIES} if is_fashion else {}
    return labelled(*sides[0], sides[1], **more, seed=seed)


def cifar100(path: str | None = None, seed: int = 0) -> LabelledData:
    """Load CIFAR-100, images (N, 3, 32, 32). Categories are its 20 coarse labels. Raises
    ``ValueError`` as ``read_cifar100`` does."""
    sides, coarse = read_cifar100(path)
    return labelled(*sides["train"], sides["test"], categories=coarse, seed=seed)


def folder(path: str | None = None, seed: int = 0) -> LabelledData:
    """Load a folder of images with a subfolder for each class, (N, 3, 32, 32). With subfolders
    "train" and "val" the classes are in both. Raises ``ValueError`` for a folder without images."""
    root = Path(path or "")
    if path is None or not root.is_dir():
        raise ValueError(f"there is no folder of images at {path!r}: give one with --path")
    if (root / "train").is_dir() and (root / "val").is_dir():
        names, x, y = read_image_folder(root / "train")
        others, *held_out = read_image_folder(root / "val")
        if names != others:
            raise ValueError(f"train and val in {path!r} have other classes")
        return labelled(x, y, tuple(held_out), names=names, seed=seed)
    names, x, y = read_image_folder(root)
    return labelled(x, y, names=names, seed=seed)


def texts(path: str | None = None, seed: int = 0) -> LabelledData:
    """Load pieces of texts by language, or by author: a file or a folder in ``path`` for each. A
    piece of 200 bytes becomes the logarithms of its counts of three bytes in a row, hashed to 512
    numbers, (N, 512). Of the documents of a class, the last one is held out, and every fifth
    before it. Of a single document its last fifth is. Raises ``ValueError`` for a text that is
    missing or too short."""
    if path is None:
        sources = {name: name for name in LANGUAGES}
    elif Path(path).is_dir():
        shown = [child for child in sorted(Path(path).iterdir()) if child.name[0] != "."]
        sources = {child.name: str(child) for child in shown}
    else:
        raise ValueError(f"there is no folder at {path!r}: give one with a text for each author")
    if not sources:
        raise ValueError(f"there is no text in {path!r}: give one for each author")
    sides: list[tuple[list[Tensor], list[int]]] = [([], []), ([], [])]
    for label, (name, source) in enumerate(sources.items()):
        for (x, y), pieces in zip(sides, _pieces(source)):
            if not pieces:
                raise ValueError(
                    f"the text of {name!r} is too short: give {2 * PIECE} bytes or more"
                )
            pieces = pieces[:: max(1, len(pieces) // MOST_PIECES)][:MOST_PIECES]
            x += [_trigrams(piece) for piece in pieces]
            y += [label] * len(pieces)
    learned, held_out = ((torch.stack(x), y) for x, y in sides)
    return labelled(*learned, held_out, names=list(sources), seed=seed)


def _pieces(source: str) -> tuple[list[bytes], list[bytes]]:
    """Cut the documents of ``source`` into pieces to learn from, and those held out."""
    listed: list[list[bytes]] = []
    for _, content in documents(source):
        listed.append(
            [content[at : at + PIECE] for at in range(0, len(content) - PIECE + 1, PIECE)]
        )
        if sum(map(len, listed)) > 10 * MOST_PIECES and len(listed) > 1:
            break
    if len(listed) == 1:
        last = max(1, len(listed[0]) // 5)
        listed = [listed[0][:-last], listed[0][-last:]]
    others = [pieces for i, pieces in enumerate(reversed(listed)) if i % 5]
    return sum(others, []), sum(listed[::-5], [])


def _trigrams(piece: bytes) -> Tensor:
    values = np.frombuffer(piece, np.uint8).astype(np.int64)
    hashes = (values[:-2] * 961 + values[1:-1] * 31 + values[2:]) % FEATURES
    return torch.from_numpy(np.log1p(np.bincount(hashes, minlength=FEATURES))).float()


_LOADERS = (digits, glyphs, fashion, cifar100, folder, drift, texts)
DATA: dict[str, Callable[..., LabelledData]] = {load.__name__: load for load in _LOADERS}
FROM_FILES = ("fashion", "cifar100", "folder", "texts")
