"""What a family of inner problems is: it draws tasks, and has a sibling never trained on.

Letters: B rows of a batch. Source: distributions over tasks as in Finn et al. 2017 (arXiv
1703.03400), meta-train and meta-test tasks apart.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch, LossFn, Params

SPLITS = ("train", "query")


class Task(ABC):
    """One inner problem. Tasks of a family share one loss; what differs travels in the batch.

    A class may add ``batches(tasks, generator, split)``, a static method that draws at once, for T
    tasks of one ``family``, what ``batch`` would draw for one after another: tensors (T, ...).
    """

    @abstractmethod
    def init(self, generator: Generator) -> Params:
        """Draw initial weights, {name: (...)}; the same names and shapes for the whole family."""

    @abstractmethod
    def batch(self, generator: Generator, split: str = "train") -> Batch:
        """Draw a batch, nested tensors (B, ...) or of any shapes that ``loss`` takes: to learn from
        ("train"), or to be scored on ("query": data no "train" batch has). Any other split raises
        ``ValueError``."""

    @abstractmethod
    def loss(self, params: Params, batch: Batch) -> Tensor:
        """The loss, (), of ``params`` {name: (...)} on ``batch``, in any one unit: the same
        function for the whole family."""


class TaskFamily(ABC):
    """A distribution over tasks. Draws come from CPU generators, whatever the data's device."""

    @abstractmethod
    def sample(self, generator: Generator) -> Task:
        """Draw a task."""

    @abstractmethod
    def held_out(self) -> TaskFamily:
        """The sibling for testing, whose tasks are drawn from other seeds or other data, so that
        none is met on both sides; a held-out family returns its like."""


class TwoSided(TaskFamily):
    """A family whose two sides differ by its attribute ``is_held_out`` alone."""

    def held_out(self) -> TwoSided:
        sibling = copy.copy(self)
        sibling.is_held_out = True
        return sibling


class NetTask(Task):
    """A task to train a net: ``model`` of its ``family``, under the family's ``loss``."""

    @property
    def loss(self) -> LossFn:
        return self.family.loss

    def init(self, generator: Generator) -> Params:
        return draw_weights(self.family.model, generator)


def draw_weights(model: nn.Module, generator: Generator) -> Params:
    """Draw weights {name: (...)} for the layers of ``model`` as PyTorch's Linear and Conv layers
    do, uniform in +-1 / sqrt(fan in), but from ``generator``; on the model's device, in its dtype.
    Raises ``AttributeError`` for a layer that has parameters but no ``weight``."""
    params = {}
    for prefix, layer in model.named_modules():
        for name, own in layer.named_parameters(prefix, recurse=False):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            drawn = (
                torch.rand(own.shape, generator=generator, dtype=torch.float32) * 2 * bound - bound
            )
            params[name] = drawn.to(own.device, own.dtype)
    return params


def draw_log_uniform(low: float, high: float, generator: Generator) -> float:
    """Draw a number whose logarithm is uniform between those of ``low`` and ``high``. Raises
    ``ZeroDivisionError`` for a ``low`` of 0: see ``check_range``."""
    share = torch.rand((), generator=generator, dtype=torch.float32).item()
    return low * (high / low) ** share


def own_generator(generator: Generator, other_side: bool) -> Generator:
    """Draw a new generator, from even seeds for one side and odd ones for the other, so that what
    is drawn from it on one side (meta-training, train) is not drawn again on the other (held-out,
    query)."""
    seed = 2 * torch.randint(2**31, (), generator=generator).item() + other_side
    return Generator().manual_seed(seed)


def check_range(name: str, bounds: tuple[float, float]) -> None:
    """Raise ``ValueError`` unless ``bounds`` is (low, high) with 0 < low <= high < infinity."""
    low, high = bounds
    if not 0 < low <= high < math.inf:
        raise ValueError(f"{name} is (low, high) with 0 < low <= high, but got {bounds}")


def check_noise(noise: float) -> None:
    """Raise ``ValueError`` unless ``noise`` is a finite number from 0."""
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is a finite number from 0, but got {noise}")


def check_split(split: str) -> None:
    """Raise ``ValueError`` unless ``split`` is "train" or "query"."""
    if split not in SPLITS:
        raise ValueError(f"split is one of {SPLITS}, but got {split!r}")
