"""Whole chunks as a loop whose body the compiler sees once: it compiles in a third of the time.

Letters: B samples, C tokens of a chunk, N chunks, D width.
Source: ``torch._higher_order_ops.scan``; the numbers are those of the loop over chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from nested.levels.forward import Params

FEWEST = 4  # chunks; fewer compile as fast one by one
Step = Callable[[tuple[Tensor, ...], Params, Params], tuple[Tensor, Params]]


def joined(sizes: list[int], chunk: int) -> list[int]:
    """Join whole chunks of ``chunk`` tokens among the ``sizes`` of pieces (tokens), for
    ``scanned``: where they are many and a graph is compiled. Before torch 2.9 a scan had no
    gradient of what its body closes over."""
    is_compiling = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()
    whole = sizes.count(chunk)
    if not is_compiling or whole < FEWEST or torch.__version__ < (2, 9):
        return sizes
    first = sizes.index(chunk)
    return [*sizes[:first], whole * chunk, *sizes[first + whole :]]


def scanned(
    step: Step, parts: Iterable[Tensor], weights: Params, chunk: int
) -> tuple[Tensor, Params]:
    """Read N whole chunks of ``chunk`` tokens by ``step``, from ``weights`` {name: (B, ...)}, which
    are those of the first chunk's start. ``parts`` are what ``step`` sees, (B, N C, ...) each.
    Returns reads (B, N C, D), and the weights after them."""
    from torch._higher_order_ops.scan import scan

    names = list(weights)

    def body(now: list[Tensor], seen: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        start = dict(zip(names, now, strict=True))
        y, after = step(tuple(seen), start, start)
        return [fresh(after[name]) for name in names], fresh(y)

    stacked = [fresh(part.unflatten(1, (-1, chunk)).transpose(0, 1)) for part in parts]
    after, reads = scan(body, [fresh(weights[name]) for name in names], stacked)
    return reads.transpose(0, 1).flatten(1, 2), dict(zip(names, after, strict=True))


def fresh(x: Tensor) -> Tensor:
    """A contiguous copy (...): a scan takes no two names of one tensor."""
    return x.clone(memory_format=torch.contiguous_format)
