"""Homework 7. A memory that outliers cannot overwrite.

Question. The delta rule (`nested/memory/linear.py`) takes steps that grow with its error. One
absurd value erases what the memory knew about that key. How does a memory read a text that is wrong
now and then?

Equation. Give it a robust objective. The error e = a M k - v is the memory's answer to the key k,
after forgetting, minus the value v. Take Huber's loss of its norm,

    L = |e|^2 / 2  where |e| <= delta,   delta (|e| - delta / 2)  elsewhere,

One gradient step on it, as in the delta rule, is

    M <- a M - n min(1, delta / |e|) e k^T,     y = M q.

Source: Huber 1964, Annals of Mathematical Statistics 35; as an objective of a memory: Behrouz,
Razaviyayn, Zhong, Mirrokni 2025, arXiv 2504.13173.

A good answer keeps five promises.
  - It reads token by token. Chunks are not needed; the loop in `by_tokens` is a model.
  - self.project(x) gives its keys, values and queries (B, T, D), and its rates and logarithms of
    retentions (B, T).
  - It never changes a tensor that was passed in.
  - Its writes stay in the graph.
  - It also works for |e| = 0.
The classes that it inherits from do everything else.

Grade it:  python -m nested.homework grade --only hw7
Time: about 60 minutes. Difficulty: 3 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
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
