"""Homework 6. A memory with a learned key.

Question. Momentum remembers gradients, and all of them decay at one rate. Delta momentum
(`nested/optim/delta_momentum.py`) forgets only where it is about to write. Its key is the gradient
itself. But is that the best key? Write a momentum whose key is a function that level 4 learns.

Equation. View each tensor of weights as rows, g (R, C): R is its first dimension, and C all others
together. A scalar or a vector is one row. Then

    k = key_theta(g),  |k| <= 1,     m <- m (a I - k^T k) - n g,     w <- w + m,

with |k| the Frobenius norm. k^T k is (C, C). Whatever the memory holds along the rows of k is
erased; everything else decays by a alone. theta, a and n are learned through the unroll.
Source: Behrouz et al. 2025, arXiv 2512.24695, eq. 48-49 (P = 1; there k = g), and Schlag, Irie,
Schmidhuber 2021, arXiv 2102.11174, for keys that are learned.

A good answer keeps four promises.
  - The key has parameters, and they can be learned. key(rows) is not a multiple of the gradient.
  - |k| <= 1 for any gradient, also for 1e30 and 0, and for any R and C.
  - forward moves by exactly this key, and the memory m is in the state.
  - The signals are {"lr": n, "momentum": a}, with n above 0 and a from 0 to below 1.

Grade it:  python -m nested.homework grade --only hw6
Time: about 2 hours. Difficulty: 4 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
  1. With |k| <= 1, why can m not grow without bound for bounded gradients? And with k = g?
     ...
  2. What is your key after meta-training, and what does the memory forget because of it?
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
