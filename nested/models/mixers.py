"""The mixers of ``Hope``, by name: each carries what tokens say to later tokens.

Source: Behrouz et al. 2025 (arXiv 2512.24695), section 8; Hope-attention has softmax attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from nested.memory.linear import LinearMemory
from nested.memory.selfmod import SelfModifyingTitans
from nested.memory.titans import TitansMemory
from nested.models.attention import Attention

if TYPE_CHECKING:
    from nested.models.config import ModelConfig


class Mixer(NamedTuple):
    """How to build a mixer, and what it can take. A block calls it as
    ``mixer(x, state, keys=..., lengths=..., write=...)``, like a ``SequenceMemory``.

    ``needs_chunk_ends``: its first weights learn only through what is written at the end of a
    chunk, so ``detach_every`` must not divide ``chunk``. ``has_products``: it can make several
    writes for each token.
    """

    build: Callable[[ModelConfig], nn.Module]
    needs_chunk_ends: bool = False
    has_products: bool = False


def _selfmod(config: ModelConfig) -> nn.Module:
    memory = SelfModifyingTitans(
        config.dim,
        config.objective,
        config.chunk,
        heads=config.heads,
        products=config.products,
        detach_every=config.detach_every,
    )
    return _started_alike(memory, memory.query.weight, memory.skip_key.weight)


def _titans(config: ModelConfig) -> nn.Module:
    cut = config.detach_every
    memory = TitansMemory(config.dim, config.chunk, heads=config.heads, detach_every=cut)
    return _started_alike(memory, memory.query.weight, memory.key.weight)


def _linear(config: ModelConfig) -> nn.Module:
    memory = LinearMemory(
        config.dim,
        config.objective,
        config.chunk,
        heads=config.heads,
        products=config.products,
        detach_every=config.detach_every,
    )
    return _started_alike(memory, memory.query.weight, memory.key.weight)


def _attention(config: ModelConfig) -> nn.Module:
    attention = Attention(config.dim, config.heads)
    queries, keys, _ = attention.project.weight.chunk(3)
    return _started_alike(attention, queries, keys)


def _started_alike(mixer: nn.Module, queries: Tensor, keys: Tensor) -> nn.Module:
    """Start the map of ``queries`` (D, D) as that of ``keys`` (P D, D) in the last write of a
    token, and return ``mixer``. A query then finds what its like has written."""
    with torch.no_grad():
        queries.copy_(keys[-len(queries) :])
    return mixer


MIXERS = {  # a new mixer is one line here
    "selfmod": Mixer(_selfmod, needs_chunk_ends=True, has_products=True),
    "titans": Mixer(_titans),
    "linear": Mixer(_linear, has_products=True),
    "attention": Mixer(_attention),
}
