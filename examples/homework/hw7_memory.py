"""Homework 7. A memory that outliers cannot overwrite.

Question. The delta rule writes with a force that grows with its error: one absurd value, and what
was known of that key is gone (`nested/memory/linear.py`). How does a memory read a text that is
wrong now and then?

Equation. Give it a robust objective. With e = a M k - v, what the memory (after forgetting) says of
the key k, less the value v, take Huber's loss of its norm,

    L = |e|^2 / 2  where |e| <= delta,   delta (|e| - delta / 2)  elsewhere,

of which the delta rule's inner step makes

    M <- a M - n min(1, delta / |e|) e k^T,     y = M q.

Source: Huber 1964, Annals of Mathematical Statistics 35; as an objective of a memory: Behrouz,
Razaviyayn, Zhong, Mirrokni 2025, arXiv 2504.13173.

A good answer reads token by token (no chunks needed; the loop in `by_tokens` is a model), takes
its keys, values, queries (B, T, D), rates and logarithms of retentions (B, T) from self.project(x),
writes without touching what was passed in, keeps its writes in the graph, and holds for |e| = 0
too. Everything else that a memory must do is done by the classes that it inherits from.

Grade it:  python -m nested.homework grade --only hw7
Time: about 60 minutes. Difficulty: 3 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in a sentence or two, for your teacher):
  1. By how much can one token change y = M q, for this memory and for the delta rule?
     ...
  2. What becomes of the memory for delta -> infinity, and for delta -> 0 with n delta kept?
     ...
"""

from nested.memory import LinearMemory


class HuberMemory(LinearMemory):
    """The delta rule with Huber's loss."""

    def __init__(self, dim, chunk=64, delta=1.0):
        super().__init__(dim, chunk=chunk)
        self.delta = delta

    def read(self, x, memory, position):
        """Read x (B, T, D) from memory {"matrix": (B, D, D)}: return y (B, T, D), and the memory
        after the last token, {"matrix": ...}."""
        raise NotImplementedError
