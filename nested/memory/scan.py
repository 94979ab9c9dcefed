"""Many whole chunks as one loop for the compiler, which sees the body of the loop once.

Compilation takes a third of the time; the numbers are those of the loop over chunks.
Letters: B samples, C tokens of a chunk, N chunks, D width.
Source: ``torch._higher_order_ops.scan``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from nested.levels.forward import Params

FEWEST = 4  # chunks; fewer compile as fast one by one
Step = Callable[[tuple[Tensor, ...], Params, Params], tuple[Tensor, Params]]


def joined(sizes: list[int], chunk: int) -> list[int]:
    """Join the whole chunks among the ``sizes`` of pieces, in tokens, into one piece for
    ``scanned``.

    This happens only while a graph is compiled and there are ``FEWEST`` chunks or more. Before
    torch 2.9 a scan gave no gradient to tensors that its body closes over, so nothing is joined.
    """
    is_compiling = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()
    whole = sizes.count(chunk)
    if not is_compiling or whole < FEWEST or torch.__version__ < (2, 9):
        return sizes
    first = sizes.index(chunk)
    return [*sizes[:first], whole * chunk, *sizes[first + whole :]]


def scanned(
    step: Step, parts: Iterable[Tensor], weights: Params, chunk: int
) -> tuple[Tensor, Params]:
    """Read N whole chunks of ``chunk`` tokens with ``step``, in one scan.

    ``parts`` are the inputs of ``step`` for all chunks, (B, N C, ...) each, and ``weights`` {name:
    (B, ...)} those at the start. Returns the reads (B, N C, D) and the weights after them.
    """
    from torch._higher_order_ops.scan import scan

    names = list(weights)

    def body(now: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        start = dict(zip(names, now, strict=True))
        y, after = step(tuple(inputs), start, start)
        return [fresh(after[name]) for name in names], fresh(y)

    stacked = [fresh(part.unflatten(1, (-1, chunk)).transpose(0, 1)) for part in parts]
    after, reads = scan(body, [fresh(weights[name]) for name in names], stacked)
    return reads.transpose(0, 1).flatten(1, 2), dict(zip(names, after, strict=True))


def fresh(x: Tensor) -> Tensor:
    """Make a contiguous copy of x (...). A scan refuses one tensor under two names."""
    return x.clone(memory_format=torch.contiguous_format)
