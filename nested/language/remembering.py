"""Learn a text at test time: read it into the state, all of it or what surprises.

Letters: T tokens.
Source: surprise as a gate of memory, Behrouz et al. 2025 (arXiv 2501.00663); here in bits a token.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nested.language.coder import ByteCoder
from nested.levels.forward import State
from nested.models.model import SequenceModel
from nested.models.movement import levels_of, movement

PIECE = 64  # tokens whose surprise is measured before they are written


@torch.no_grad()
def memorise(
    model: SequenceModel,
    state: State | None,
    text: str | bytes | Sequence[int],
    *,
    surprise: float | None = None,
    levels: Collection[str] | None = None,
) -> State:
    """Read ``text`` into ``state`` (1, ...), or into a new one, and return what it becomes.

    A model of bytes takes a text; another takes the tokens (T,) of its coder. With ``surprise``
    only tokens are written that the model gave more than that many bits. With ``levels``, names as
    in ``movement``, all other levels keep what they hold. Raises ``ValueError`` for a text without
    tokens, a negative ``surprise``, or a level that the model does not have.
    """
    tokens = _tokens(model, text)
    if surprise is not None and not surprise >= 0:
        raise ValueError(f"surprise is 0 bits or more, but got {surprise}")
    state = model.init(1) if state is None else state
    known = set(movement(model, state, state))
    if levels is not None and set(levels) - known:
        raise ValueError(
            f"this model has no level {sorted(set(levels) - known)[0]!r}; its levels:"
            f" {', '.join(sorted(known)) or 'none'}"
        )
    model.eval()
    last: Tensor | None = None
    for piece in tokens.split(PIECE, dim=1):
        write = None
        if surprise is not None:
            logits, _ = model(piece, state)
            write = bits_of(logits, piece, last) > surprise
        logits, after = model(piece, state, write=write)
        state = after if levels is None else _kept(state, after, levels)
        last = logits[:, -1:]
    return state


def bits_of(logits: Tensor, tokens: Tensor, before: Tensor | None) -> Tensor:
    """Compute how many bits each of ``tokens`` (1, T) takes, (1, T), by the ``logits`` (1, T, V)
    after them and those ``before`` the first, (1, 1, V). Without these the first is infinite."""
    previous = logits[:, :-1] if before is None else torch.cat([before, logits[:, :-1]], dim=1)
    told = tokens[:, tokens.shape[1] - previous.shape[1] :]
    bits = cross_entropy(previous.mT, told, reduction="none") / math.log(2)
    return bits if before is not None else torch.cat([bits.new_full((1, 1), math.inf), bits], dim=1)


def _tokens(model: SequenceModel, text: str | bytes | Sequence[int]) -> Tensor:
    if isinstance(text, (str, bytes)):
        if model.config.vocab != ByteCoder.vocab:
            raise ValueError("this model does not read bytes: pass coder.encode(text)")
        text = ByteCoder().encode(text.encode() if isinstance(text, str) else text)
    tokens = torch.as_tensor(text, dtype=torch.int64).reshape(1, -1)
    if not tokens.numel():
        raise ValueError("there is nothing to memorise: the text is empty")
    return tokens.to(next(model.parameters()).device)


def _kept(before: State, after: State, levels: Collection[str]) -> State:
    """Return ``after``, with the memories ``before`` in all but ``levels``."""
    blocks = []
    for number, (old, new) in enumerate(zip(before["blocks"], after["blocks"], strict=True), 1):
        parts = dict(new)
        for name, part in new.items():
            if isinstance(part, dict) and "memory" in part:
                names = levels_of(f"block {number} {name}", part["memory"])
                pairs = zip(names, _as_tuple(old[name]["memory"]), _as_tuple(part["memory"]))
                chosen = tuple(n if level in levels else o for level, o, n in pairs)
                memory = chosen if isinstance(part["memory"], tuple) else chosen[0]
                parts[name] = {**part, "memory": memory}
        blocks.append(parts)
    return {**after, "blocks": tuple(blocks)}


def _as_tuple(memory: State) -> tuple[State, ...]:
    return memory if isinstance(memory, tuple) else (memory,)
