"""Labelled examples, checked, and split into those to learn from and those held out.

Letters: N examples to learn from, M held out, C classes.
Source: no example stands on both sides, so that accuracy is never measured on what was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

HELD_OUT = 5  # every fifth example of a class is held out


class LabelledData(NamedTuple):
    """Examples and their labels from 0 to C - 1. ``labelled`` makes and checks them.

    ``domains`` and ``held_domains`` say where each example comes from, from 0; None means nowhere
    in particular. ``categories`` (C,) groups the classes."""

    x: Tensor  # (N, ...)
    y: Tensor  # (N,)
    held_x: Tensor  # (M, ...)
    held_y: Tensor  # (M,)
    names: tuple[str, ...]  # of the C classes
    domains: Tensor | None = None  # (N,)
    held_domains: Tensor | None = None  # (M,)
    categories: tuple[int, ...] | None = None

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.names)


def labelled(
    x: Any,
    y: Any,
    held_out: tuple[Any, Any] | None = None,
    *,
    names: Sequence[str] = (),
    domains: Any = None,
    categories: Sequence[int] | None = None,
    seed: int = 0,
) -> LabelledData:
    """Check arrays ``x`` (N, ...) and labels ``y`` (N,), and hold some of them out.

    ``held_out`` are arrays that are held out already. Otherwise a fifth of each class is, drawn by
    ``seed``. Labels may be any whole numbers. Raises ``ValueError`` for arrays of different length,
    for numbers that are not finite, and for labels that are no whole numbers. Raises it too for a
    class without an example on either side."""
    x, y = _examples(x, y)
    domains = None if domains is None else _whole(domains, "domains", len(y))
    if held_out is None:
        is_held = _draw_held_out(y, seed)
        held_x, held_y, x, y = x[is_held], y[is_held], x[~is_held], y[~is_held]
        held_domains, domains = _split(domains, is_held)
    else:
        (held_x, held_y), held_domains = _examples(*held_out), None
        if held_x.shape[1:] != x.shape[1:]:
            shapes = f"{tuple(x.shape[1:])} and {tuple(held_x.shape[1:])}"
            raise ValueError(f"examples have one shape, but got {shapes} held out")
    values = y.unique()
    for side, labels in (("to learn from", y), ("held out", held_y)):
        lacking = sorted(set(torch.cat([values, held_y.unique()]).tolist()) - set(labels.tolist()))
        if lacking:
            raise ValueError(f"class {lacking[0]} has no example {side}: leave it out, or add some")
    names = tuple(names) or tuple(str(value) for value in values.tolist())
    if len(names) != len(values):
        raise ValueError(f"there are {len(values)} classes, but {len(names)} names")
    y, held_y = torch.searchsorted(values, y), torch.searchsorted(values, held_y)
    groups = None if categories is None else tuple(categories)
    if groups is not None and len(groups) != len(names):
        raise ValueError(f"there are {len(names)} classes, but categories of {len(groups)}")
    return LabelledData(x, y, held_x, held_y, names, domains, held_domains, groups)


def _examples(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    x = torch.as_tensor(x).float()
    y = _whole(y, "labels", len(x))
    if not x.isfinite().all():
        bad = int((~x.flatten(1).isfinite().all(1)).sum())
        raise ValueError(f"examples are finite numbers, but {bad} of {len(x)} have NaN or infinity")
    return x, y


def _whole(values: Any, name: str, count: int) -> Tensor:
    try:
        values = torch.as_tensor(values)
        is_whole = not values.is_complex() and bool((values == values.long()).all())
    except (TypeError, ValueError, RuntimeError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{name} are whole numbers: give classes numbers instead of words")
    if values.shape != (count,) or not count:
        raise ValueError(
            f"there is one of {name} for each example, and at least one: {count} examples, but"
            f" {name} {tuple(values.shape)}"
        )
    return values.long()


def _draw_held_out(y: Tensor, seed: int) -> Tensor:
    """Mark a fifth of each class, and at least one example: (N,)."""
    is_held, generator = torch.zeros(len(y), dtype=torch.bool), Generator().manual_seed(seed)
    for value, count in zip(*(part.tolist() for part in y.unique(return_counts=True))):
        if count < 2:
            raise ValueError(f"class {value} has one example: two are needed, to hold one out")
        rows = (y == value).nonzero()[:, 0]
        rows = rows[torch.randperm(count, generator=generator)]
        is_held[rows[: max(1, count // HELD_OUT)]] = True
    return is_held


def _split(domains: Tensor | None, is_held: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if domains is None else (domains[is_held], domains[~is_held])
