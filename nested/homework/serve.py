"""Serve a student's rule or family as functions from tensors to tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from nested.levels.forward import Params, State
from nested.levels.lend import call_with
from nested.levels.rule import Step, UpdateRule
from nested.tasks.family import TaskFamily

Served = dict[str, Callable]


def serve_rule(rule: UpdateRule) -> Served:
    """Serve a rule's ``describe``, ``init`` and ``forward``.

    The rule's parameters and buffers {name: (...)} come with each question. Raises ``TypeError``
    for an object that is no rule."""
    if not isinstance(rule, UpdateRule):
        raise TypeError(f"the slot needs an UpdateRule, but got a {type(rule).__name__}")

    def describe() -> dict[str, Any]:
        return {
            "parameters": dict(rule.named_parameters()),
            "learned": [name for name, p in rule.named_parameters() if p.requires_grad],
            "buffers": dict(rule.named_buffers()),
            "coordinatewise": bool(getattr(rule, "coordinatewise", False)),
            "ordered": bool(getattr(rule, "ordered", False)),
        }

    def forward(
        tensors: Params, params: Params, grads: Params, state: State, loss: Tensor
    ) -> tuple:
        step = call_with(rule, tensors, params, grads, state, loss)
        if not isinstance(step, Step):
            raise TypeError(f"the rule must return a Step, but got {type(step).__name__}")
        return tuple(step)

    return {"describe": describe, "init": rule.init, "forward": forward}


def serve_family(family: TaskFamily) -> Served:
    """Serve a family's ``sample``, ``init``, ``batch`` and ``loss``.

    Questions give tasks by number and generators by seed. Raises ``TypeError`` for an object that
    is no family."""
    if not isinstance(family, TaskFamily):
        raise TypeError(f"the slot needs a TaskFamily, but got a {type(family).__name__}")
    tasks: list[Any] = []

    def sample(seed: int, sides: int) -> Any:
        side = family
        for _ in range(sides):
            side = side.held_out()
        tasks.append(side.sample(_generator(seed)))
        return len(tasks) - 1

    def loss(params: Params, batch: Any, number: int) -> Tensor:
        return tasks[number].loss(params, batch)

    return {
        "sample": sample,
        "init": lambda number, seed: tasks[number].init(_generator(seed)),
        "batch": lambda number, seed, split: tasks[number].batch(_generator(seed), split),
        "loss": loss,
    }


def _generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)
