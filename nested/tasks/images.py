"""Where images come from: IDX files, folders of images, and CIFAR-100.

Letters: N images, H and W their sides.
Source: the formats of the files; CIFAR-100 by the library ``datasets``.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nested.support.extras import needed

CIFAR = "uoft-cs/cifar100"  # on the hub
COLUMNS = ("img", "fine_label", "coarse_label")
PICTURE = 32  # pixels of an image of a folder, along either side


def read_idx(folder: Path, name: str) -> Tensor:
    """Read an IDX file of bytes, packed or not, as a tensor (N, ...).

    Source: the description of the format by LeCun, Cortes and Burges. Raises ``ValueError`` if it
    is missing, or no such file."""
    paths = [folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(
            f"there is no {name} or {name}.gz in {str(folder)!r}: give its folder, which Debian's"
            " package dataset-fashion-mnist fills"
        )
    try:
        content = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {str(path)!r}: {error}") from error
    dims = content[3] if len(content) > 4 and content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content[4 : 4 + 4 * dims], ">u4").tolist() if dims else []
    if not shape or len(content) != 4 + 4 * dims + math.prod(shape):
        raise ValueError(f"{str(path)!r} is no IDX file of bytes, or it is cut short")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dims).copy()).view(
        shape
    )


def read_cifar100(path: str | None = None) -> tuple[dict[str, tuple[Tensor, Tensor]], list[int]]:
    """Read CIFAR-100 from the hub, or a data set of its format at ``path``.

    Returns {"train" | "test": (images (N, 3, 32, 32), labels (N,))}, and the coarse label of each
    label. Raises ``ValueError`` if it cannot be loaded, or has another format."""
    library = needed("datasets", "datasets")
    try:
        whole = library.load_dataset(path or CIFAR)
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"cannot load the data set {path or CIFAR!r}: {error}") from error
    sides, coarse = {}, {}
    for side in ("train", "test"):
        if side not in whole or not {*COLUMNS} <= {*whole[side].features}:
            raise ValueError(f"{path or CIFAR!r} has no {side} images with {', '.join(COLUMNS)}")
        rows = whole[side]
        pixels = [np.asarray(image.convert("RGB")) for image in rows["img"]]
        sides[side] = as_images(pixels), torch.tensor(rows["fine_label"])
        coarse |= dict(zip(rows["fine_label"], rows["coarse_label"]))
    return sides, [coarse[label] for label in sorted(set(sides["train"][1].tolist()))]


def read_image_folder(root: Path) -> tuple[list[str], Tensor, Tensor]:
    """Read a folder with a subfolder of images for each class.

    Returns the names of the classes, images (N, 3, 32, 32) and labels (N,). Raises ``ValueError``
    for a folder or a class without images, and for a file that is none."""
    from PIL import Image, UnidentifiedImageError  # comes with matplotlib

    names = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    pixels, labels = [], []
    for label, name in enumerate(names):
        files = sorted(path for path in (root / name).iterdir() if path.name[0] != ".")
        if not files:
            raise ValueError(
                f"the class {name!r} in {str(root)!r} has no image: add some, or delete it"
            )
        for file in files:
            try:
                with Image.open(file) as image:
                    pixels.append(np.asarray(image.convert("RGB").resize((PICTURE, PICTURE))))
            except (OSError, UnidentifiedImageError) as error:
                raise ValueError(f"{str(file)!r} is no image that can be read: {error}") from error
            labels.append(label)
    if not pixels:
        raise ValueError(f"there is no image in {str(root)!r}: give a subfolder to each class")
    return names, as_images(pixels), torch.tensor(labels)


def as_images(pixels: list[np.ndarray]) -> Tensor:
    """Turn arrays of bytes (H, W, 3) into images (N, 3, H, W) of numbers from 0 to 1."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
