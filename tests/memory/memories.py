"""The memories that the tests of this folder go through, each made as make(dim, chunk)."""

import torch

from nested.memory import ContinuumMemory, LinearMemory, SelfModifyingTitans, TitansMemory


def continuum(form):
    return lambda dim, chunk: ContinuumMemory(dim, (chunk, 2 * chunk, 4 * chunk), form)


MEMORIES = {
    "linear": lambda dim, chunk: LinearMemory(dim, "l2", chunk),
    "dot": lambda dim, chunk: LinearMemory(dim, "dot", chunk),
    "linear, 3 products": lambda dim, chunk: LinearMemory(dim, "l2", chunk, heads=2, products=3),
    "dot, 2 products": lambda dim, chunk: LinearMemory(dim, "dot", chunk, heads=2, products=2),
    "titans": lambda dim, chunk: TitansMemory(dim, chunk),
    "titans, 2 heads": lambda dim, chunk: TitansMemory(dim, chunk, heads=2),
    "selfmod": lambda dim, chunk: SelfModifyingTitans(dim, "l2", chunk),
    "selfmod, start": lambda dim, chunk: SelfModifyingTitans(dim, "l2", chunk, reads="start"),
    "selfmod, dot": lambda dim, chunk: SelfModifyingTitans(dim, "dot", chunk),
    "selfmod, start, 2 products": lambda dim, chunk: SelfModifyingTitans(
        dim, "dot", chunk, reads="start", products=2
    ),
    "selfmod, 2 heads": lambda dim, chunk: SelfModifyingTitans(dim, "l2", chunk, heads=2),
    "selfmod, 3 products": lambda d, chunk: SelfModifyingTitans(
        d, "l2", chunk, heads=2, products=3
    ),
    "sequential": continuum("sequential"),
    "independent": continuum("independent"),
    "nested": continuum("nested"),
}


def nudged(memory, seed=0, by=0.2):
    """In float64, with every parameter moved a little, so that none is at a special place."""
    generator = torch.Generator().manual_seed(seed)
    memory = memory.double()
    with torch.no_grad():
        for p in memory.parameters():
            p += by * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return memory
