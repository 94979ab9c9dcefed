"""Labelled examples, checked, and split into those to learn from and those held out.

Letters: N examples to learn from, M held out, C classes.
Source: no example stands on both sides, so that accuracy is never measured on what was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

HELD_OUT = 5  # a random fifth of each class is held out


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
    held_out: tuple[Any, ...] | None = None,
    *,
    names: Sequence[str] = (),
    domains: Any = None,
    categories: Sequence[int] | None = None,
    seed: int = 0,
) -> LabelledData:
    """Check arrays ``x`` (N, ...) and labels ``y`` (N,), and hold some of them out.

    ``held_out`` are arrays that are held out already, (x, y) or (x, y, domains). Otherwise a random
    fifth of each class is, drawn by ``seed``. Labels and domains may be any whole numbers. They are
    numbered anew, from 0. Raises ``ValueError`` for arrays of different length, for numbers that
    are not finite, and for labels, domains or categories that are no whole numbers. Raises it too
    for a class without an example on either side, and for domains that are held out alone."""
    x, y = _examples(x, y)
    domains = None if domains is None else _whole(domains, "domains", len(y))
    if held_out is None:
        is_held = _draw_held_out(y, seed)
        held_x, held_y, x, y = x[is_held], y[is_held], x[~is_held], y[~is_held]
        held_domains, domains = _split(domains, is_held)
    else:
        if len(held_out) != (2 if domains is None else 3):
            raise ValueError("held_out is (x, y), or (x, y, domains) if there are domains")
        (held_x, held_y), held_domains = _examples(*held_out[:2]), None
        if domains is not None:
            held_domains = _whole(held_out[2], "domains", len(held_y))
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
    if domains is not None:
        domains, held_domains = _numbered(domains, held_domains)
    groups = None
    if categories is not None:
        groups = tuple(_whole(categories, "categories", len(names), of="classes").tolist())
    return LabelledData(x, y, held_x, held_y, names, domains, held_domains, groups)


def _numbered(domains: Tensor, held_domains: Tensor) -> tuple[Tensor, ...]:
    """Number the domains (N,) and (M,) from 0."""
    known = domains.unique()
    if lacking := sorted(set(held_domains.tolist()) - set(known.tolist())):
        raise ValueError(f"domain {lacking[0]} is held out, and has no example to learn from")
    return tuple(torch.searchsorted(known, side) for side in (domains, held_domains))


def split_again(data: LabelledData, seed: int) -> LabelledData:
    """Leave out the examples that are held out, and hold out a fifth of the others. Whoever tunes
    on these data sees nothing of what is measured later."""
    more = {"names": data.names, "domains": data.domains, "categories": data.categories}
    return labelled(data.x, data.y, **more, seed=seed)


def only_classes(data: LabelledData, classes: Sequence[int]) -> LabelledData:
    """Keep the examples of some ``classes``, whose labels become 0, 1, ... in that order."""
    kept = torch.tensor(list(classes))
    place = torch.full((data.classes,), -1)
    place[kept] = torch.arange(len(kept))
    sides = []
    for x, y, domains in (
        (data.x, data.y, data.domains),
        (data.held_x, data.held_y, data.held_domains),
    ):
        rows = torch.isin(y, kept)
        sides += [x[rows], place[y[rows]], None if domains is None else domains[rows]]
    x, y, domains, held_x, held_y, held_domains = sides
    names, groups = (
        part and tuple(part[i] for i in kept.tolist()) for part in (data.names, data.categories)
    )
    return LabelledData(x, y, held_x, held_y, names, domains, held_domains, groups)


def _examples(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"examples are numbers in arrays of one shape: {error}") from error
    if x.dim() < 2 or x.is_complex() or not x[:1].numel() and len(x):
        raise ValueError(
            f"examples are real numbers (examples, features, ...), but got {x.dtype} of shape"
            f" {tuple(x.shape)}"
        )
    x = x.float()
    y = _whole(y, "labels", len(x))
    if not x.isfinite().all():
        bad = int((~x.flatten(1).isfinite().all(1)).sum())
        raise ValueError(f"examples are finite numbers, but {bad} of {len(x)} have NaN or infinity")
    return x, y


def _whole(values: Any, name: str, count: int, *, of: str = "examples") -> Tensor:
    try:
        values = torch.as_tensor(values)
        is_whole = not values.is_complex() and bool((values == values.long()).all())
    except (TypeError, ValueError, RuntimeError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{name} are whole numbers: no words, no fractions, no NaN")
    if values.shape != (count,) or not count:
        raise ValueError(
            f"{name} hold one number for each of the {of}, and at least one: there are {count}"
            f" {of}, but {name} {tuple(values.shape)}"
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
