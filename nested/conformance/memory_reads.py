"""What a sequence memory or model is looked at with: small ones, and what they read.

Letters: B samples, T tokens, D width.
Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import State

Make = Callable[[int, int], nn.Module]
DIM, CHUNK, SAMPLES = 8, 8, 2
NUDGE = 0.1


def made(make: Make, seed: int, chunk: int = CHUNK, dim: int = DIM) -> nn.Module:
    """A memory in float64, its parameters moved a little: none is at a special place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = make(dim, chunk).double()
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for p in memory.parameters():
            p += NUDGE * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return memory


def draw(memory: nn.Module, seed: int, samples: int = SAMPLES, tokens: int = 67) -> Tensor:
    """What ``memory`` reads: vectors (B, T, D), or for a model tokens (B, T) int64."""
    generator = Generator().manual_seed(1000 + seed)
    if hasattr(memory, "config"):
        return torch.randint(memory.config.vocab, (samples, tokens), generator=generator)
    x = torch.randn(samples, tokens, memory.dim, generator=generator, dtype=torch.float64)
    return x


def in_parts(memory: nn.Module, x: Tensor, sizes: list[int]) -> tuple[Tensor, State]:
    """Read x (B, T, ...) in pieces of these sizes, the state carried on: y (B, T, D), the state."""
    state, outputs = None, []
    for piece in x.split(sizes, dim=1):
        y, state = memory(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def leaves(state: State) -> list[Tensor]:
    """The tensors (...) of a state, in the order of their names."""
    if isinstance(state, dict):
        return [leaf for name in sorted(state) for leaf in leaves(state[name])]
    if isinstance(state, (tuple, list)):
        return [leaf for part in state for leaf in leaves(part)]
    return [state]
