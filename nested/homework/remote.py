"""Proxies for a student's rule, family or function. They compute in the student's process.

The grader uses them like ordinary rules, families and functions of tensors. They can be
differentiated any number of times. So every check runs on the grader's side, with the grader's
PyTorch. The student's process returns values and vector-Jacobian products. The grader compares the
products with finite differences of the values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from nested.homework.sandbox import Sandbox
from nested.levels.forward import Batch, Params, State
from nested.levels.rule import Step, UpdateRule
from nested.tasks.family import Task, TaskFamily

LARGEST = 2**17  # numbers in a batch, or in the weights of a task


@dataclass(frozen=True)
class _Question:
    """A function of flat tensors (...) in the student's process."""

    sandbox: Sandbox
    function: str
    spec: Any  # of the arguments
    static: tuple
    transforms: tuple = ()
    answer: dict[str, Any] = field(default_factory=dict)  # the spec of the answer

    def __call__(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        count = self.spec.num_leaves  # cotangents come after the arguments
        args, extra = tree_unflatten(list(tensors[:count]), self.spec), tensors[count:]
        options = {"static": self.static, "transforms": self.transforms, "extra": extra}
        reply = self.sandbox.ask(self.function, *args, **options)
        if reply["changed"] and self.transforms:
            raise ValueError("it writes to what was passed in")
        with torch.no_grad():
            for place, written in reply["changed"].items():
                tensors[int(place)].copy_(written)  # repeat the write on this side
        out, spec = tree_flatten(reply["out"])
        self.answer.setdefault("spec", spec)  # of the first answer, not of a derivative
        return tuple(out)

    def then(self, transform: str, count: int) -> _Question:
        return replace(self, transforms=(*self.transforms, (transform, count)), answer=self.answer)


class _Remote(torch.autograd.Function):
    """Ask a question. Its derivative and its vmap are questions too."""

    @staticmethod
    def forward(question: _Question, *tensors: Tensor) -> tuple[Tensor, ...]:
        return question(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.question = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.mark_non_differentiable(*[x for x in output if not x.is_floating_point()])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        tensors = ctx.saved_tensors
        derivative = ctx.question.then("vjp", len(tensors))
        grads = _Remote.apply(derivative, *tensors, *cotangents)
        return None, *[g if x.is_floating_point() else None for g, x in zip(grads, tensors)]

    @staticmethod
    def vmap(info: Any, in_dims: tuple, question: _Question, *tensors: Tensor) -> tuple:
        stacked = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        out = _Remote.apply(question.then("tasks", len(tensors)), *stacked)
        return out, (0,) * len(out)


def call(sandbox: Sandbox, function: str, *args: Any, static: tuple = ()) -> Any:
    """Call ``function`` in the student's process with nested tensors (...).

    The result is differentiable in all floating-point tensors. Exceptions of the student's code
    pass through, or come as ``StudentError``."""
    leaves, spec = tree_flatten(args)
    question = _Question(sandbox, function, spec, static)
    out = _Remote.apply(question, *leaves)
    return tree_unflatten(list(out), question.answer["spec"])


class RemoteRule(UpdateRule):
    """A proxy of a student's rule. Its parameters and buffers are here, and its code runs there."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self._sandbox = sandbox
        about = sandbox.ask("describe")["out"]
        self.coordinatewise, self.ordered = about["coordinatewise"], about["ordered"]
        for name, tensor in about["parameters"].items():
            plant(self, name, nn.Parameter(tensor, requires_grad=name in about["learned"]))
        for name, tensor in about["buffers"].items():
            plant(self, name, tensor)

    def init(self, params: Params) -> State:
        return call(self._sandbox, "init", params)

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return Step(*call(self._sandbox, "forward", tensors, params, grads, state, loss))


def plant(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a parameter or buffer ``tensor`` (...) under a dotted name "a.b.c" of ``root``."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)


def _of_a_size(tree: Any, name: str) -> Any:
    count = sum(leaf.numel() for leaf in tree_leaves(tree) if torch.is_tensor(leaf))
    if count > LARGEST:
        raise ValueError(f"{name} has {count} numbers; at most {LARGEST} can be graded")
    return tree


def _seed(generator: Generator) -> int:
    return torch.randint(2**31, (), generator=generator).item()


class RemoteFamily(TaskFamily):
    """A proxy of a student's family. Tasks are drawn there, from seeds that are drawn here."""

    def __init__(self, sandbox: Sandbox, sides: int = 0) -> None:
        self.sandbox, self.sides = sandbox, sides  # number of calls of held_out()

    def sample(self, generator: Generator) -> RemoteTask:
        number = self.sandbox.ask("sample", static=(_seed(generator), self.sides))["out"]
        return RemoteTask(self.sandbox, number)

    def held_out(self) -> RemoteFamily:
        return RemoteFamily(self.sandbox, self.sides + 1)


@dataclass(frozen=True)
class RemoteTask(Task):
    """A proxy of a student's task, which has a ``number`` there.

    Raises ``ValueError`` for weights or batches of more than ``LARGEST`` numbers."""

    sandbox: Sandbox
    number: int

    def init(self, generator: Generator) -> Params:
        static = (self.number, _seed(generator))
        return _of_a_size(self.sandbox.ask("init", static=static)["out"], "a task's weights")

    def batch(self, generator: Generator, split: str = "train") -> Batch:
        static = (self.number, _seed(generator), split)
        return _of_a_size(self.sandbox.ask("batch", static=static)["out"], "a batch")

    def loss(self, params: Params, batch: Batch) -> Tensor:
        return call(self.sandbox, "loss", params, batch, static=(self.number,))
