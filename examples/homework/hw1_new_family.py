"""Homework 1. A family of your own.

Question. A rule learns to train nets on a *family* of inner problems. Tasks of one family share
something and differ in something. Write a family: which problem should a rule learn on?

Equation. A task is a loss L(w; batch) and a distribution of batches. A family is a distribution of
tasks. Level 4, theta, is trained on one part of the family. It is scored on the other part, whose
tasks it never met:

    theta* = argmin E_task [ L(w_K(theta, task); fresh data of the task) ].

Tasks of a family run side by side, stacked by torch.vmap, so they share one loss. Whatever differs
from task to task (a frequency, a scale, a relabelling) is part of the batch.
Source: Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 2; `nested/tasks/family.py` is the
contract, `nested/tasks/sum_regression.py` the smallest example.

A good answer keeps five promises.
  - The same generator state draws the same task and the same data. Nothing else is random.
  - "query" batches hold data that no "train" batch has.
  - held_out() draws tasks that are never trained on.
  - The loss is one scalar, twice differentiable, and the same function for all tasks.
  - There is something to learn.
Ideas: sines of random amplitude and phase, as in the paper; a random teacher net; two spirals,
rotated.

Grade it:  python -m nested.homework grade --only hw1
Time: about 60 minutes. Difficulty: 2 of 5. Stuck? Add --hint to the command.

Two written questions (answer here, in one or two sentences, for your teacher):
  1. What do your tasks share that a rule could exploit? What must the rule find out in each task?
     ...
  2. How could query data leak into train batches in your family, and what stops it?
     ...
"""

from nested import Task, TaskFamily


class MyFamily(TaskFamily):
    """Describe it here: what a task is, what a batch is (with shapes), what the loss is."""

    def sample(self, generator) -> Task:
        """Draw a task."""
        raise NotImplementedError

    def held_out(self) -> TaskFamily:
        """The sibling: neither it nor its own held_out() draws a task of this family."""
        raise NotImplementedError


class MyTask(Task):
    """One inner problem."""

    def init(self, generator):
        """Draw initial weights {name: tensor}, of the same shapes for all tasks."""
        raise NotImplementedError

    def batch(self, generator, split="train"):
        """Draw a batch to learn from ("train") or to be scored on ("query")."""
        raise NotImplementedError

    def loss(self, params, batch):
        """The loss, a scalar: the same function for all tasks."""
        raise NotImplementedError
