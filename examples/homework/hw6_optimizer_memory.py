"""Homework 6. A memory with a key of its own.

Question. Momentum remembers gradients and lets all of them fade at one rate. Delta momentum
(`nested/optim/delta_momentum.py`) forgets only where it is about to write: its key is the gradient
itself. But is that the best key? Write a momentum whose key is a function that level 4 learns.

Equation. Take each tensor of weights as rows, g (R, C): R is its first dimension, C all others
together; scalars and vectors are one row. Then

    k = key_theta(g),  |k| <= 1,     m <- m (a I - k^T k) - n g,     w <- w + m,

with |k| the Frobenius norm. k^T k is (C, C): what the memory holds along the rows of k goes, and
what it holds across them fades by a alone. theta, a and n learn, through the unroll.
Source: Behrouz et al. 2025, arXiv 2512.24695, eq. 48-49 (P = 1; there k = g), and Schlag, Irie,
Schmidhuber 2021, arXiv 2102.11174, for keys that are learned.

A good answer has parameters of its own in the key and lets them be learned: key(rows) is no mere
multiple of the gradient, keeps to |k| <= 1 for any gradient (1e30 and 0 too), and works for any R
and C. forward moves by exactly this key; it shows {"lr": n, "momentum": a}, n above 0 and a from 0
to below 1; the memory m is in the state.

Grade it:  python -m nested.homework grade --only hw6
Time: about 2 hours. Difficulty: 4 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in a sentence or two, for your teacher):
  1. With |k| <= 1, why can m not grow without bound for bounded gradients? And with k = g?
     ...
  2. What does your key look like after meta-training, and what does the memory forget by it?
     ...
"""

from nested import UpdateRule


class KeyedMomentum(UpdateRule):
    """Momentum that forgets along a learned key."""

    def __init__(self):
        super().__init__()
        raise NotImplementedError

    def key(self, rows):
        """The key (R, C) of one gradient as rows (R, C)."""
        raise NotImplementedError

    def init(self, params):
        """The state before the first step: an empty memory for each tensor."""
        raise NotImplementedError

    def forward(self, params, grads, state, loss):
        """One move: return Step(params, state, {"lr": ..., "momentum": ...})."""
        raise NotImplementedError
