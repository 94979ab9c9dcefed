"""The contract of a strategy, and the simplest one: fine-tuning, which does nothing against
forgetting.

Letters: B examples of a batch, C classes, P numbers of the weights.
Source: online continual learning, one pass over a stream, as in Chaudhry et al. 2019 (arXiv
1902.10486).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves, tree_map_only

from nested.levels.forward import Params
from nested.support.checks import check_numbers

LR_RANGE = (0.03, 1.0)
CLIP = 1.0  # the longest gradient: a batch of a new task can have a very large one


class Strategy:
    """Fine-tuning: a step of gradient descent on each batch, and nothing else.

    It trains ``net`` in place, at the rate ``lr``. Others inherit from it, and change ``loss``,
    ``after_step`` or ``end_task``. A strategy may store up to ``budget`` numbers beside the weights
    of the net: examples with their labels, logits, and copies of weights. Everything random is
    drawn from ``seed``.

    Its contract: ``observe`` learns from a batch, ``end_task`` is called after each task, and
    ``logits`` answers. In streams of kind "task" both get the ``task``, and answers are among its
    classes. Copies of the weights share the running statistics of the net, if it has some.

    Raises ``ValueError`` for settings that make no sense, and in ``observe`` for batches that are
    empty or not finite, and for labels without an output."""

    ranges: Mapping[str, tuple[float, float]] = {"lr": LR_RANGE}  # what tuning tries
    saved: tuple[str, ...] = ("net", "optimizer", "generator", "labels", "moves")  # attributes

    def __init__(self, net: nn.Module, *, lr: float = 0.1, budget: int = 0, seed: int = 0) -> None:
        check_numbers(lr=lr)
        if type(budget) is not int or budget < 0:
            raise ValueError(f"budget is a whole number from 0, but got {budget!r}")
        self.net, self.budget = net, budget
        self.is_repeat = False  # ``run`` sets it when a task is read once more: nothing is new
        self.generator = Generator().manual_seed(seed)
        self.optimizer = self.new_optimizer(lr)
        self.labels: dict[int, list[int]] = {}  # of each task that the learner knows
        self.moves = {"weights": 0}  # how often each level moved

    def new_optimizer(self, lr: float) -> torch.optim.Optimizer:
        """Return what moves the net."""
        return torch.optim.SGD(self.net.parameters(), lr)

    def observe(self, x: Tensor, y: Tensor, task: int | None = None) -> float:
        """Learn from one batch, x (B, ...) and y (B,). Returns its loss in nats."""
        check_batch(x, y)
        self.note(y, task)
        self.net.train()
        self.net.zero_grad()
        loss = self.loss(x, y, task)
        loss.backward()
        self.before_step(x, y, task)
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.step()
        self.after_step(x, y, task)
        return loss.item()

    def note(self, y: Tensor, task: int | None) -> None:
        """Note that the labels y (B,) belong to ``task``."""
        if task is not None:
            self.labels[task] = sorted({*self.labels.get(task, ()), *y.tolist()})

    def loss(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        """Return what the step lowers, (), for a batch x (B, ...), y (B,)."""
        return self.criterion(self.net(x), y, task)

    def criterion(self, logits: Tensor, y: Tensor, task: int | Tensor | None) -> Tensor:
        """Return the cross entropy of ``logits`` (B, C) among the classes of ``task``, (). Tasks
        (B,) of each example are possible, too; -1 is none."""
        if (largest := int(y.max())) >= logits.shape[1]:
            outputs = logits.shape[1]
            raise ValueError(f"labels are below {outputs}, the outputs of the net: got {largest}")
        return cross_entropy(self.masked(logits, task), y)

    def before_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        """Change the gradients before the step. The batch was x (B, ...), y (B,)."""

    def step(self) -> None:
        """Move the weights by their gradients."""
        self.optimizer.step()

    def after_step(self, x: Tensor, y: Tensor, task: int | None) -> None:
        """Do what follows a step on x (B, ...), y (B,): here, count it."""
        self.moves["weights"] += 1

    def end_task(self, task: int) -> None:
        """Do what follows a task."""

    @torch.no_grad()
    def logits(self, x: Tensor, task: int | None = None) -> Tensor:
        """Answer for x (B, ...): logits (B, C), of which the largest is the class."""
        self.net.eval()
        return self.masked(self.answer(x), task)

    def answer(self, x: Tensor) -> Tensor:
        """Return the logits of x (B, ...) in all classes, (B, C)."""
        return self.net(x)

    def masked(self, logits: Tensor, task: int | Tensor | None) -> Tensor:
        """Return ``logits`` (B, C) with -inf for the classes of other tasks, where those of the
        task are known."""
        if task is None or not self.labels:
            return logits
        tasks = task.tolist() if isinstance(task, Tensor) else [task] * len(logits)
        mask = torch.zeros_like(logits)
        for row, number in zip(mask, tasks):
            if number in self.labels:
                row.fill_(-math.inf)
                row[[label for label in self.labels[number] if label < len(row)]] = 0.0
        return logits + mask

    def numbers_stored(self) -> int:
        """Count the numbers stored now, beside the weights of the net and its optimizer: those of
        the tensors that a strategy adds to ``saved``."""
        added = [_saved(getattr(self, n)) for n in self.saved[len(Strategy.saved) :]]
        return sum(leaf.numel() for leaf in tree_leaves(added) if isinstance(leaf, Tensor))

    def state_dict(self) -> dict[str, Any]:
        """Return all that later batches depend on, as tensors (...) and plain data."""
        return copy.deepcopy({name: _saved(getattr(self, name)) for name in self.saved})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, tensors (...) and plain data. Raises ``ValueError`` for
        the state of another strategy."""
        if state.keys() != set(self.saved):
            names = f"{sorted(state)}, and here {sorted(self.saved)}"
            raise ValueError(f"this is the state of another strategy: it has {names}")
        device = next(self.net.parameters()).device
        for name in self.saved:
            part, value = getattr(self, name), copy.deepcopy(state[name])
            if isinstance(part, Generator):
                part.set_state(value)
                continue
            value = tree_map_only(Tensor, lambda tensor: tensor.to(device), value)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(value)
            else:
                setattr(self, name, value)


def _saved(part: Any) -> Any:
    if hasattr(part, "state_dict"):
        return part.state_dict()
    return part.get_state() if isinstance(part, Generator) else part


def check_batch(x: Tensor, y: Tensor) -> None:
    """Raise ``ValueError`` unless x (B, ...) is finite and y (B,) are whole numbers from 0."""
    if not len(x) or y.shape != x.shape[:1]:
        raise ValueError(
            f"a batch has one label for each example, but got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if not x.isfinite().all():
        raise ValueError("this batch has NaN or infinity: leave such examples out")
    if y.dtype != torch.int64:
        raise ValueError(f"labels are whole numbers (torch.int64), but got {y.dtype}")
    if y.min() < 0:
        raise ValueError(f"labels are whole numbers from 0, but got {y.min().item()}")


def tasks_of(y: Tensor, task: int | None) -> Tensor:
    """Return the task of each label y (B,), (B,): -1 is none."""
    return torch.full_like(y, -1 if task is None else task)


@torch.no_grad()
def answer_with(net: nn.Module, weights: Params, x: Tensor) -> Tensor:
    """Return the logits (B, C) of x (B, ...) by ``net`` with other ``weights``, {name: (...)}. The
    net is in evaluation mode meanwhile, so that no running statistics move."""
    was_training = net.training
    net.eval()
    logits = functional_call(net, weights, (x,))
    net.train(was_training)
    return logits


def weights_of(net: nn.Module) -> Params:
    """Return copies of the weights of ``net``, {name: (...)}, without a graph."""
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


def count_weights(net: nn.Module) -> int:
    """Count the numbers P in the weights of ``net``."""
    return sum(weight.numel() for weight in net.parameters())
