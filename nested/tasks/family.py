"""What a family of inner problems is: a distribution over tasks, with a held-out side.

Letters: B rows of a batch. Source: distributions over tasks as in Finn et al. 2017 (arXiv
1703.03400), with meta-training and meta-test tasks apart.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch, LossFn, Params, functional_loss

SPLITS = ("train", "query")


class Task(ABC):
    """One inner problem. All tasks of a family share one loss, and differ in their batches.

    A class may add a static method ``batches(tasks, generator, split)`` for T tasks of one
    ``family``. It draws tensors (T, ...), equal to one ``batch`` after another, but faster.
    """

    @abstractmethod
    def init(self, generator: Generator) -> Params:
        """Draw initial weights, {name: (...)}: the same names and shapes in the whole family."""

    @abstractmethod
    def batch(self, generator: Generator, split: str = "train") -> Batch:
        """Draw a batch of tensors (B, ...), or of other shapes that ``loss`` takes.

        The weights learn from "train" batches. "query" batches score them, on data that no "train"
        batch contains. Any other ``split`` raises ``ValueError``.
        """

    @abstractmethod
    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Compute the loss, (), of ``params`` {name: (...)} on ``batch``. The whole family has the
        same function, in one unit."""


class TaskFamily(ABC):
    """A distribution over tasks. All draws come from CPU generators, also for data on a GPU."""

    @abstractmethod
    def sample(self, generator: Generator) -> Task:
        """Draw a task."""

    @abstractmethod
    def held_out(self) -> TaskFamily:
        """Return the family to test on, which shares no task with this one: its seeds or its data
        are others. A held-out family returns one like itself."""


class TwoSided(TaskFamily):
    """A family that has a meta-training side and a held-out side.

    All families of this package are of this class and take its keyword arguments. ``device`` and
    ``dtype`` are those of weights and batches; ``is_held_out`` chooses the held-out side.
    """

    def __init__(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        is_held_out: bool = False,
    ) -> None:
        self.device, self.dtype, self.is_held_out = device, dtype, is_held_out

    def held_out(self) -> TwoSided:
        sibling = copy.copy(self)
        sibling.is_held_out = True
        return sibling

    def set_net(self, model: nn.Module, criterion: Callable[..., Tensor]) -> None:
        """Make ``NetTask`` train ``model`` by ``criterion(model(inputs), targets)``, ()."""
        self.model = model.to(self.device, self.dtype)
        self.loss = functional_loss(self.model, criterion)

    def place(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Bring tensors (...) to the family's device, and floating-point ones to its dtype."""
        return tuple(
            x.to(self.device, self.dtype if x.is_floating_point() else x.dtype) for x in tensors
        )


class NetTask(Task):
    """A task that trains the ``model`` of its ``family`` under the family's ``loss``."""

    @property
    def loss(self) -> LossFn:
        return self.family.loss

    def init(self, generator: Generator) -> Params:
        return draw_weights(self.family.model, generator)


def draw_weights(model: nn.Module, generator: Generator) -> Params:
    """Draw initial weights {name: (...)} for the layers of ``model``, on its device, in its dtype.

    They are uniform in +-1 / sqrt(fan in), as in PyTorch's Linear and Conv layers. Raises
    ``AttributeError`` for a layer that has parameters but no ``weight``.
    """
    params = {}
    for prefix, layer in model.named_modules():
        for name, p in layer.named_parameters(prefix, recurse=False):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            drawn = draw_uniform(p.shape, generator) * 2 * bound - bound
            params[name] = drawn.to(p.device, p.dtype)
    return params


def draw_uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw float32 numbers (...), uniform in [0, 1), under any default dtype."""
    return torch.rand(shape, generator=generator, dtype=torch.float32)


def draw_normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw float32 numbers (...) of a standard normal distribution, under any default dtype."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def draw_log_uniform(low: float, high: float, generator: Generator) -> float:
    """Draw a number from ``low`` to ``high`` whose logarithm is uniform. Raises
    ``ZeroDivisionError`` for a ``low`` of 0: see ``check_range``."""
    return low * (high / low) ** draw_uniform((), generator).item()


def own_generator(generator: Generator, other_side: bool) -> Generator:
    """Draw a new generator for one of two sides, so that no draw is repeated on the other side.

    Its seed is even, or odd for ``other_side``: held-out tasks, or "query" batches.
    """
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
