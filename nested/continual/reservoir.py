"""A memory of examples in which each example of the stream is as likely as any other.

Letters: B examples of a batch, S slots, N examples drawn. Source: reservoir sampling, Vitter 1985.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

FEWEST = 64  # slots to begin with


class Reservoir:
    """Keeps up to ``size`` examples of a stream, each with the same probability.

    An example is a tuple of tensors, such as (x, y) or (x, y, logits)."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = max(0, size), 0
        self._slots: list[Tensor] = []  # one tensor (S, ...) for each part of an example

    def __len__(self) -> int:
        return min(self.seen, self.size)

    def add(self, generator: Generator, *parts: Tensor) -> None:
        """Take in a batch: parts (B, ...), one after the other."""
        for i in range(len(parts[0]) if self.size else 0):
            self.seen += 1
            if self.seen <= self.size:
                slot = self.seen - 1
            else:
                slot = int(torch.randint(self.seen, (), generator=generator))
            room = len(self._slots[0]) if self._slots else 0
            if slot == room < self.size:  # double the slots: a large size may never fill
                more = min(self.size - room, max(room, FEWEST))
                new = [part.new_zeros(more, *part.shape[1:]) for part in parts]
                old = self._slots or [part[:0] for part in new]
                self._slots = [torch.cat(pair) for pair in zip(old, new)]
            if slot < self.size:
                for kept, part in zip(self._slots, parts, strict=True):
                    kept[slot] = part[i].detach()

    def draw(self, generator: Generator, count: int) -> tuple[Tensor, ...]:
        """Draw up to ``count`` different examples: parts (N, ...)."""
        rows = torch.randperm(len(self), generator=generator)[:count]
        return tuple(kept[rows.to(kept.device)] for kept in self._slots)

    def all(self) -> tuple[Tensor, ...]:
        """Return all examples: parts (S, ...)."""
        return tuple(kept[: len(self)] for kept in self._slots)

    def state_dict(self) -> dict:
        """Return the examples (S, ...) and how many were seen."""
        return {"size": self.size, "seen": self.seen, "slots": list(self._slots)}

    def load_state_dict(self, state: dict) -> None:
        """Go on with the examples (S, ...) of ``state``."""
        self.size, self.seen, self._slots = state["size"], state["seen"], list(state["slots"])


def slots_for(budget: int, x: Tensor, more: int = 1) -> int:
    """Compute how many examples like those of ``x`` (B, ...) fit into ``budget`` numbers, each with
    ``more`` numbers beside it."""
    return max(0, budget // (x[0].numel() + more))
