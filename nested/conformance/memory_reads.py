"""Make the small memories and the inputs that the checks of sequence memories run on.

Letters: B samples, T tokens, D width.
Source: ``nested.conformance.memory``, whose checks call these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import State

Make = Callable[[int, int], nn.Module]
DIM, CHUNK, SAMPLES = 8, 8, 2
NUDGE = 0.1


def made(make: Make, seed: int, chunk: int = CHUNK, dim: int = DIM) -> nn.Module:
    """Make a memory in float64, with small random changes to its parameters: zeros and ones would
    hide mistakes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = make(dim, chunk).double()
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for p in memory.parameters():
            p += NUDGE * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return memory


def draw(memory: nn.Module, seed: int, samples: int = SAMPLES, tokens: int = 67) -> Tensor:
    """Draw an input for ``memory``: vectors (B, T, D), or for a model int64 tokens (B, T)."""
    generator = Generator().manual_seed(1000 + seed)
    if hasattr(memory, "config"):
        return torch.randint(memory.config.vocab, (samples, tokens), generator=generator)
    x = torch.randn(samples, tokens, memory.dim, generator=generator, dtype=torch.float64)
    return x


def in_parts(memory: nn.Module, x: Tensor, sizes: list[int]) -> tuple[Tensor, State]:
    """Read x (B, T, ...) in pieces of these sizes, and carry the state: y (B, T, D), the state."""
    state, outputs = None, []
    for piece in x.split(sizes, dim=1):
        y, state = memory(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def leaves(state: State) -> list[Tensor]:
    """List the tensors (...) of a state, in the order of their names."""
    if isinstance(state, dict):
        return [leaf for name in sorted(state) for leaf in leaves(state[name])]
    if isinstance(state, (tuple, list)):
        return [leaf for part in state for leaf in leaves(part)]
    return [state]


def memories(state: State) -> Iterator[State]:
    """Yield every entry named "memory" in a state, nested tensors (B, ...)."""
    if isinstance(state, dict):
        yield from ([state["memory"]] if "memory" in state else [])
        state = tuple(part for name, part in state.items() if name != "memory")
    if isinstance(state, (tuple, list)):
        for part in state:
            yield from memories(part)
