"""Which tokens of a batch are there, and which of them a memory writes.

Texts of a batch end at different tokens, and a reader can leave some tokens unwritten. Then the
samples of a batch stand at different positions, and their chunks end at different columns.
Letters: B samples, T tokens.
Source: Behrouz et al. 2025 (arXiv 2512.24695), section 3: a level moves at its clock, which counts
the tokens that it has written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Position = int | Tensor  # tokens before these: of all samples, or of each (B,)
Lengths = Tensor | Sequence[int]
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def present_tokens(x: Tensor, lengths: Lengths | None) -> Tensor | None:
    """Mark the first ``lengths`` (B,) tokens of each sample of x (B, T, ...): True or False (B, T).

    Without lengths all tokens are there, and the mask is None. Raises ``ValueError`` unless there
    is one whole number from 0 to T for each sample.
    """
    if lengths is None:
        return None
    samples, tokens = x.shape[:2]
    try:
        lengths = torch.as_tensor(lengths, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"lengths are whole numbers, one for each of {samples} samples, but got {lengths!r}"
        ) from None
    if lengths.shape != (samples,) or lengths.dtype not in WHOLE:
        raise ValueError(
            f"lengths are whole numbers, one for each of {samples} samples, but got"
            f" {lengths.dtype} {tuple(lengths.shape)}"
        )
    if not is_traced() and (lengths.min() < 0 or lengths.max() > tokens):
        low, high = lengths.min().item(), lengths.max().item()
        raise ValueError(f"lengths are from 0 to {tokens} tokens, but got {low} to {high}")
    return torch.arange(tokens, device=x.device) < lengths[:, None]


def written_tokens(x: Tensor, present: Tensor | None, write: Tensor | None) -> Tensor | None:
    """Mark the tokens of x (B, T, ...) that are ``present`` and that ``write`` names: (B, T).

    The result is None if all tokens are written. Raises ``ValueError`` as ``check_mask`` does.
    """
    check_mask(x, write)
    masks = [mask for mask in (present, write) if mask is not None]
    if not masks:
        return None
    both = masks[0] if len(masks) == 1 else masks[0] & masks[1]
    return None if not is_traced() and both.all() else both


def check_mask(x: Tensor, write: Tensor | None) -> None:
    """Raise ``ValueError`` unless ``write`` is None or a bool mask (B, T) for x (B, T, ...)."""
    if write is None:
        return
    is_mask = isinstance(write, Tensor) and write.dtype == torch.bool
    if not is_mask or write.shape != x.shape[:2]:
        got = f"{write.dtype} {tuple(write.shape)}" if isinstance(write, Tensor) else write
        raise ValueError(f"write is a bool mask {tuple(x.shape[:2])}, but got {got}")


def last_tokens(text: Tensor, count: int, lengths: Lengths | None) -> Tensor:
    """Return the last ``count`` tokens (B, count, ...) of ``text`` (B, count + T, ...), whose first
    ``count`` came before. With ``lengths`` (B,) the later ones are the first ``lengths[b]``."""
    if lengths is None:
        return text[:, text.shape[1] - count :]
    ends = torch.as_tensor(lengths, device=text.device)[:, None]
    places = ends + torch.arange(count, device=text.device)  # (B, count)
    places = places.reshape(*places.shape, *[1] * (text.dim() - 2))
    return text.gather(1, places.expand(-1, -1, *text.shape[2:]))


def without_padding(x: Tensor, present: Tensor | None) -> Tensor:
    """Return x (B, T, ...) with zeros where a token is not ``present`` (B, T)."""
    if present is None:
        return x
    return x.masked_fill(~present.reshape(*present.shape, *[1] * (x.dim() - 2)), 0)


def piece_sizes(
    position: Position, length: int, period: int | None, write: Tensor | None = None
) -> list[int]:
    """List the sizes of the pieces that ``length`` tokens are split into, so that a piece ends at
    every ``period``-th token of the whole text.

    ``position`` counts the tokens before these. A ``period`` of None splits nothing. With a mask
    ``write`` (B, T) only the tokens that it marks count, and a piece ends where the period of any
    sample ends. In a traced program a piece may have to end at any token, so each is one token.

    >>> piece_sizes(position=6, length=9, period=4)
    [2, 4, 3]
    """
    if period is None:
        return [length]
    if isinstance(position, Tensor) and (write is None or is_traced()):
        return [1] * length
    if write is not None:
        counts = torch.as_tensor(position, device=write.device).reshape(-1, 1) + write.cumsum(1)
        ends = (write & (counts % period == 0)).any(0).nonzero().flatten().tolist()
        cuts = [0, *(end + 1 for end in ends if end + 1 < length), length]
        return [after - before for before, after in zip(cuts, cuts[1:])]
    first = min(period - position % period, length)
    rest = length - first
    return [first, *[period] * (rest // period), *[rest % period] * (rest % period > 0)]


def later(position: Position, length: int, write: Tensor | None = None) -> Position:
    """Return the position after ``length`` tokens, of which those in ``write`` (B, T) count."""
    return position + (length if write is None else write.sum(1).to(position.device))


def is_traced() -> bool:
    """Say whether a compiler, a tracer or a transform of ``torch.func`` reads the program: tensors
    may have no values then."""
    is_compiled = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return is_compiled or torch._C._are_functorch_transforms_active()
