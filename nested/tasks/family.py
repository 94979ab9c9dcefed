"""What a family of inner problems is: it draws tasks, and has a sibling never trained on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn

from nested.levels.forward import Batch, Params

SPLITS = ("train", "query")


class Task(ABC):
    """One inner problem. Tasks of a family share one loss; what differs travels in the batch."""

    @abstractmethod
    def init(self, generator: Generator) -> Params:
        """Draw initial weights, {name: (...)}; the same names and shapes for the whole family."""

    @abstractmethod
    def batch(self, generator: Generator, split: str = "train") -> Batch:
        """Draw a batch to learn from ("train"), or to be scored on ("query": data no "train" batch
        has). Any other split raises ``ValueError``."""

    @abstractmethod
    def loss(self, params: Params, batch: Batch) -> Tensor:
        """The scalar loss of ``params`` on ``batch``: the same function for the whole family."""


class TaskFamily(ABC):
    """A distribution over tasks. Draws come from CPU generators, whatever the data's device."""

    @abstractmethod
    def sample(self, generator: Generator) -> Task:
        """Draw a task."""

    @abstractmethod
    def held_out(self) -> TaskFamily:
        """The sibling for testing: no task that it draws can be drawn by this family."""


def draw_weights(model: nn.Module, generator: Generator) -> Params:
    """Draw weights for the layers of ``model`` as PyTorch's Linear and Conv layers do, uniform in
    +-1 / sqrt(fan in), but from ``generator``; on the device and in the dtype of the model."""
    params = {}
    for prefix, layer in model.named_modules():
        for name, own in layer.named_parameters(prefix, recurse=False):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            drawn = torch.rand(own.shape, generator=generator) * 2 * bound - bound
            params[name] = drawn.to(own.device, own.dtype)
    return params


def draw_log_uniform(low: float, high: float, generator: Generator) -> float:
    """Draw a number whose logarithm is uniform between those of ``low`` and ``high`` (both > 0)."""
    share = torch.rand((), generator=generator).item()
    return low * (high / low) ** share


def own_generator(generator: Generator, held_out: bool) -> Generator:
    """Draw a new generator, from even seeds for meta-training and odd ones for held-out tasks, so
    that a task drawn from it is never met on the other side."""
    seed = 2 * torch.randint(2**31, (), generator=generator).item() + held_out
    return Generator().manual_seed(seed)


def check_split(split: str) -> None:
    """Raise ``ValueError`` unless ``split`` is "train" or "query"."""
    if split not in SPLITS:
        raise ValueError(f"split is one of {SPLITS}, but got {split!r}")
