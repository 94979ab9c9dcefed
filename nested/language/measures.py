"""How well a model predicts held-out text: bits a byte.

Letters: B pieces of text, T tokens of a piece, V tokens of the vocabulary.
Source: bits a byte are the loss in nats over ln 2, divided by the bytes that the tokens stand for.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nested.language.coder import Coder
from nested.language.text import Documents
from nested.levels.forward import State
from nested.models.model import SequenceModel

WINDOW = 1024  # tokens read at once


def even_pieces(documents: Documents, count: int, size: int) -> Tensor:
    """Choose ``count`` pieces of ``size`` + 1 tokens, evenly spread: (B, T + 1).

    A document that is shorter than that gives none. Raises ``ValueError`` if all are shorter.
    """
    starts = [(i, s) for i in range(len(documents)) for s in _starts(documents, i, size)]
    if not starts:
        longest = int(documents.lengths.max()) - 1
        raise ValueError(
            f"no held-out document has {size} tokens; the longest has {longest}: take longer"
            " texts, or a shorter length"
        )
    chosen = np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int)
    pieces = [documents.tokens(i, s, s + size + 1) for i, s in (starts[c] for c in chosen)]
    return torch.from_numpy(np.stack(pieces))


def _starts(documents: Documents, i: int, size: int) -> range:
    return range(0, int(documents.lengths[i]) - size, size)


@torch.no_grad()
def token_losses(model: SequenceModel, pieces: Tensor, state: State | None = None) -> Tensor:
    """Compute the loss of each next token in nats, (B, T) for ``pieces`` (B, T + 1), read from
    their start or on from ``state`` (B, ...)."""
    device, losses = next(model.parameters()).device, []
    was_training = model.training
    model.eval()
    pieces = pieces.to(device)
    for tokens, targets in zip(pieces[:, :-1].split(WINDOW, 1), pieces[:, 1:].split(WINDOW, 1)):
        logits, state = model(tokens, state)
        losses.append(cross_entropy(logits.mT, targets, reduction="none"))
    model.train(was_training)
    return torch.cat(losses, dim=1)


def bits_per_byte(model: SequenceModel, coder: Coder, pieces: Tensor) -> float:
    """Compute the bits a byte of ``pieces`` (B, T + 1), each read from its start."""
    return bits_of_bytes(token_losses(model, pieces), coder, pieces[:, 1:])


def bits_of_bytes(losses: Tensor, coder: Coder, tokens: Tensor) -> float:
    """Compute the bits a byte of ``tokens`` (B, T), whose ``losses`` (B, T) are in nats."""
    size = sum(len(coder.decode(piece)) for piece in tokens.tolist())
    return losses.cpu().double().sum().item() / math.log(2) / max(1, size)
