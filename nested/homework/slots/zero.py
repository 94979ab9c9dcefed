"""Serve the five tasks of hw_zero in the student's process, and make their proxies here.

Letters: K inner steps, M meta-steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nested.conformance.small_problem import small_loss
from nested.homework.remote import RemoteRule, call
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served, serve_rule
from nested.homework.slots import unrolls
from nested.homework.slots.unrolls import RemoteUnroll
from nested.levels.forward import Batch, LossFn, Params, State
from nested.levels.rule import Step
from nested.tasks.sum_regression import SumRegression

FAMILY = SumRegression()
LOSSES: dict[str, LossFn] = {**unrolls.LOSSES, "sum": FAMILY.loss}
META_LR = 0.03


class _BySteps:
    """A rule of constants that moves by the student's ``step``."""

    def __init__(self, step: Callable, lr: Tensor, momentum: Tensor) -> None:
        self.step, self.lr, self.momentum = step, lr, momentum

    def init(self, params: Params) -> State:
        return {name: torch.zeros_like(w) for name, w in params.items()}

    def __call__(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        return Step(*self.step(params, state, grads, self.lr, self.momentum), {})


def _ready(params: Params) -> Params:
    return {n: w if w.requires_grad else w.detach().requires_grad_() for n, w in params.items()}


@contextmanager
def _counted(module: ModuleType, name: str) -> Iterator[list]:
    """Count how often the module calls its function ``name``."""
    original, calls = getattr(module, name), []

    def counted(*args: Any, **more: Any) -> Any:
        calls.append(0)
        return original(*args, **more)

    setattr(module, name, counted)
    try:
        yield calls
    finally:
        setattr(module, name, original)


def serve_zero(module: ModuleType) -> Served:
    """Serve the five tasks that are written so far.

    Each function raises ``NotImplementedError`` if its part of the file is missing."""

    def part(name: str) -> Any:
        if not hasattr(module, name):
            raise NotImplementedError(f"{name} is not in the file yet")
        return getattr(module, name)

    @cache
    def rule() -> Served:
        return serve_rule(part("MetaOptimizer")())

    def of_rule(name: str) -> Callable:
        return lambda *args: rule()[name](*args)

    def run(params: Params, batches: list[Batch], lr: Tensor, momentum: Tensor, loss: str) -> Any:
        constant = _BySteps(part("step"), lr, momentum)
        return part("unroll")(LOSSES[loss], _ready(params), batches, constant)

    def learn(tensors: Params, problems: list, lr: float, loss: str) -> dict[str, Any]:
        learner = part("MetaOptimizer")().to(next(iter(tensors.values())).dtype)
        learner.load_state_dict(tensors, strict=False)
        tasks = [(LOSSES[loss], _ready(params), list(batches)) for params, batches in problems]
        losses = part("meta_train")(learner, tasks, lr)
        return {
            "losses": torch.tensor(losses, dtype=torch.float64),
            "rule": dict(learner.named_parameters()),
        }

    def count(params: Params, batches: list[Batch]) -> Tensor:
        learner, task = part("MetaOptimizer")().double(), (small_loss, _ready(params), batches)
        with _counted(module, "gradient") as gradients, _counted(module, "step") as steps:
            part("unroll")(*task, learner)
        with _counted(module, "unroll") as unrolls:
            part("meta_train")(learner, [task], META_LR)
        return torch.tensor([len(gradients), len(steps), len(unrolls)])

    return {
        "gradient": lambda params, batch: part("gradient")(small_loss, _ready(params), batch),
        "step": lambda *parts: part("step")(*parts),
        "run": run,
        **{name: of_rule(name) for name in ("describe", "init", "forward")},
        "learn": learn,
        "count": count,
    }


# --- on the grader's side ----------------------------------------------------------------------


@dataclass(frozen=True)
class Zero:
    """A proxy of the student's file, with its functions and its rule."""

    sandbox: Sandbox

    def gradient(self, params: Params, batch: Batch) -> tuple[Tensor, Params]:
        """Return the loss, (), and its gradient {name: (...)}.

        Raises ``TypeError`` or ``ValueError`` for a result of another form."""
        out = call(self.sandbox, "gradient", params, batch)
        if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict)):
            raise TypeError("return (loss, grads): a tensor and a dict")
        return out[0], _as(params, out[1], "grads")

    def step(self, *parts: Any) -> tuple[Params, Params]:
        """Return the next params and buffer, {name: (...)} each.

        Raises ``TypeError`` or ``ValueError`` for a result of another form."""
        out = call(self.sandbox, "step", *parts)
        if not (isinstance(out, tuple) and len(out) == 2):
            raise TypeError("return (params, buffer): two dicts")
        return _as(parts[0], out[0], "params"), _as(parts[0], out[1], "buffer")

    def rule(self) -> RemoteRule:
        """Make a proxy of the student's ``MetaOptimizer``. Exceptions pass through."""
        return RemoteRule(self.sandbox)

    def unroll(self) -> RemoteUnroll:
        """Make a proxy of the student's ``unroll``, with the student's ``step`` and constants."""
        return RemoteUnroll(self.sandbox)


def _as(params: Params, tree: Any, part: str) -> Params:
    if not isinstance(tree, dict) or tree.keys() != params.keys():
        raise ValueError(f"{part} is a dict with the names of params")
    wrong = [name for name in params if tree[name].shape != params[name].shape]
    if wrong:
        raise ValueError(f"{part}[{wrong[0]!r}] has another shape than params")
    return tree
