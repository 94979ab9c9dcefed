"""Sequence memories: small models that learn while they read, one token per step."""

from nested.levels.detach import detached
from nested.memory.continuum import ContinuumMemory
from nested.memory.gates import Gate, HardGate, shut
from nested.memory.linear import LinearMemory, by_chunks, by_tokens
from nested.memory.ngram_memory import NGramMemory
from nested.memory.selfmod import SelfModifyingTitans
from nested.memory.sequence import ChunkedMemory, SequenceMemory
from nested.memory.state import pick, stack_states
from nested.memory.titans import TitansMemory

__all__ = [
    "ChunkedMemory",
    "ContinuumMemory",
    "Gate",
    "HardGate",
    "LinearMemory",
    "NGramMemory",
    "SelfModifyingTitans",
    "SequenceMemory",
    "TitansMemory",
    "by_chunks",
    "by_tokens",
    "detached",
    "pick",
    "shut",
    "stack_states",
]
