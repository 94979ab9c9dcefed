"""Homework 8. A memory that is fair to rare classes.

Question. A reservoir (`nested/continual/reservoir.py`) gives each example of a stream the same
chance to be stored. So a class with 3 of 100 examples has about 3 % of the slots, and is forgotten
first. How does a memory give each class the same number of slots, if nobody says in advance how
many classes will come, or how often?

Equation. Let m_c be the stored examples of class c, and n_c those that have come. For an example of
class c:
  - While slots are free, it takes one.
  - Then a class with the most slots is called full, and stays full for ever.
  - If c is not full, the example replaces a random one of the classes with the most slots.
  - If c is full, the example replaces a random one of its own class with probability m_c / n_c,
    where n_c counts this example, too.

Source: class-balanced reservoir sampling, Chrysakis and Moens 2020, ICML.

A good answer keeps four promises.
  - Classes that could fill more slots never differ by more than one.
  - Among the examples of one class the first and the last are equally likely to be stored.
  - All parts of an example stay together. Parts come as tensors (B, ...): x, y, and maybe more.
  - `state_dict` and `load_state_dict` also carry what you add to the memory, such as counts.
    The class that you inherit from saves its size, what it has seen, and its slots.

`BalancedReplay` is finished: it rehearses what your memory keeps.

Grade it:  python -m nested.homework grade --only hw8
Time: about 60 minutes. Difficulty: 3 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
  1. Why would replacing with probability 1, if c is full, not be fair?
     ...
  2. In which streams is this memory worse than a plain reservoir?
     ...
"""

from nested.continual.replay import Replay
from nested.continual.reservoir import Reservoir


class BalancedReservoir(Reservoir):
    """Keeps equally many examples of each class. The second part of an example is its label."""

    def add(self, generator, *parts):
        """Take in a batch: parts (B, ...), the second of which are labels (B,)."""
        raise NotImplementedError


class BalancedReplay(Replay):
    """Replay with a balanced memory."""

    def new_memory(self, size):
        return BalancedReservoir(size)
