"""Slot hw7: a memory with a robust objective, so that an outlier cannot overwrite it.

Letters: B samples, T tokens, D width.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.memory import MEMORY_CHECKS
from nested.conformance.memory_reads import DIM, draw, made
from nested.homework.remote import call, plant
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served
from nested.homework.slots.slot import Slot
from nested.levels.forward import Params, State
from nested.levels.lend import call_with
from nested.memory.gates import shut
from nested.memory.sequence import SequenceMemory

SIZES = (0.03, 0.3, 0.0, 1.0, 3.0, 30.0)  # of tokens, for errors above and below delta, and 0
DELTAS = (1.0, 0.3)
# what ``project`` returns, (B, D) or (B,) for a token
PROJECTED = ("key", "value", "query", "rate", "log kept")
CLOSE = 1e-9


class RemoteMemory(nn.Module):
    """A proxy of a student's memory of width D = ``dim``. Its parameters are here, its code there.

    It maps x (B, T, D) and a state to y (B, T, D) and a state. Exceptions of the student's code
    pass through."""

    def __init__(self, sandbox: Sandbox, dim: int, chunk: int) -> None:
        super().__init__()
        self._sandbox, self.dim, self.chunk = sandbox, dim, chunk
        self.delta, self.detach_every, self.is_shut = DELTAS[0], None, False
        about = sandbox.ask("describe", static=self._which())["out"]
        for name, tensor in about.items():
            plant(self, name, nn.Parameter(tensor))

    def _which(self) -> tuple:
        return self.dim, self.chunk, self.delta, self.detach_every, self.is_shut

    def _call(self, function: str, *args: Any) -> Any:
        parameters = dict(self.named_parameters())
        return call(self._sandbox, function, parameters, *args, static=self._which())

    def init(self, batch_size: int) -> State:
        """Return its first state, nested tensors (B, ...)."""
        return self._call("init", torch.zeros(batch_size))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """What it makes of x (B, T, D) before it reads."""
        return self._call("project", x)

    def forward(self, x: Tensor, state: State | None = None, **masks: Any) -> tuple[Tensor, State]:
        given = {"x": x, "state": state, **masks}
        given = {name: value for name, value in given.items() if value is not None}
        if "lengths" in given:  # only tensors are sent
            given["lengths"] = torch.as_tensor(given["lengths"])
        return self._call("forward", given)

    def shut(self) -> None:
        """Use the student's memory with its gates shut from now on."""
        self.is_shut = True


def _serve(module: ModuleType) -> Served:
    memories = {}

    def memory(
        dim: int, chunk: int, delta: float, detach_every: int | None, is_shut: bool
    ) -> SequenceMemory:
        which = dim, chunk, delta, detach_every, is_shut
        if which not in memories:
            torch.manual_seed(0)
            made = module.HuberMemory(dim, chunk, delta)
            if not isinstance(made, SequenceMemory):
                raise TypeError(f"the slot needs a SequenceMemory, not {type(made).__name__}")
            made.eval()  # where slopes of hard gates are exact
            made.detach_every = detach_every
            if is_shut:
                shut(made)
            memories[which] = made
        return memories[which]

    def describe(*which: Any) -> dict[str, Any]:
        return dict(memory(*which).named_parameters())

    def asked(method: str, parameters: Params, *rest: Any) -> Any:
        args, which = rest[:-5], rest[-5:]
        names = {f"memory.{name}": tensor for name, tensor in parameters.items()}
        return call_with(_Asked(memory(*which), method), names, *args)

    return {
        "describe": describe,
        "forward": lambda *args: asked("forward", *args),
        "project": lambda *args: asked("project", *args),
        "init": lambda *args: asked("init", *args),
    }


class _Asked(nn.Module):
    """One method of a memory as a module, so that it can run with the parameters of a question."""

    def __init__(self, memory: nn.Module, method: str) -> None:
        super().__init__()
        self.memory, self.method = memory, method

    def forward(self, *args: Any) -> Any:
        if self.method == "init":
            return self.memory.init(len(args[0]))
        if self.method == "forward":
            return self.memory(**args[0])
        return getattr(self.memory, self.method)(*args)


class _Make:
    """Make proxies of the student's memory, as ``make(dim, chunk)`` of ``check_memory``."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def __call__(self, dim: int, chunk: int) -> RemoteMemory:
        return RemoteMemory(self.sandbox, dim, chunk)


def _probe_huber(make: Any, seed: int) -> Evidence:
    """Record how each of T tokens of many sizes changes the matrix of a memory.

    Also compute the largest slope of the reads with respect to the input, also at errors of 0."""
    memory, tokens = made(make, seed), []
    x = draw(memory, seed, tokens=2 * len(SIZES))
    x = x * torch.tensor(SIZES, dtype=x.dtype).repeat(2)[:, None]
    for memory.delta in DELTAS:
        state = memory.init(len(x))
        matrix = _matrix(memory, state, seed)
        for x_t in x.split(1, dim=1):
            with torch.no_grad():
                y, state = memory(x_t, state)
                parts = zip(PROJECTED, (part.squeeze(1) for part in memory.project(x_t)))
            before, matrix = matrix, _matrix(memory, state, seed)
            token = {"before": before, "after": matrix, "read": y.squeeze(1)}
            tokens.append({**token, "delta": memory.delta, **dict(parts)})
    y = memory(x.requires_grad_())[0]
    slope = torch.autograd.grad(y.sum(), x)[0].abs().max().item()
    return {"tokens": tokens, "slope": slope}


@torch.no_grad()
def _matrix(memory: RemoteMemory, state: State, seed: int) -> Tensor:
    """Compute the matrix (B, D, D) of a memory, for any layout of its state.

    With its gates shut the memory reads and never writes. So its reads are the matrix times its
    queries."""
    memory.is_shut = True
    asked = draw(memory, seed + 1, tokens=2 * DIM)
    queries, reads = memory.project(asked)[2], memory(asked, state)[0]
    memory.is_shut = False
    return (torch.linalg.pinv(queries) @ reads).mT


def _judge_huber(evidence: Evidence) -> Verdict:
    no_slope = "at e = 0 the norm has no derivative: divide by max(|e|, delta)"
    for at, token in enumerate(evidence["tokens"], start=1):
        if not token["after"].isfinite().all():
            return Verdict(False, f"after token {at} the memory is not finite", no_slope)
        for name, (apart, hint) in _faults(token).items():
            if not apart <= CLOSE:  # NaN too
                measured = (
                    f"at token {at}, delta {token['delta']:g}: {name} has an error of {apart:.2g}"
                )
                return Verdict(False, measured, hint)
    if not math.isfinite(evidence["slope"]):
        return Verdict(False, f"a gradient of {evidence['slope']} at an error of 0", no_slope)
    return Verdict(True, f"{len(evidence['tokens'])} writes have Huber's direction and length")


def _faults(token: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Compute the errors of a write in place, length and direction, and the error of the read."""
    key, rate, retention = token["key"], token["rate"], token["log kept"].exp()
    was = retention[:, None, None] * token["before"]
    written = token["after"] - was  # (B, D, D)
    force = torch.einsum("bij,bj->bi", written, key)
    error = torch.einsum("bij,bj->bi", was, key) - token["value"]
    size, length = error.norm(dim=1), force.norm(dim=1)
    wanted = rate * size.clamp(max=token["delta"])
    against = size[:, None] * force + length[:, None] * error  # 0 where the two are opposed
    read = torch.einsum("bij,bj->bi", token["after"], token["query"])
    elsewhere = written - force[:, :, None] * key[:, None, :]
    return {
        "the write across the key": (
            _largest(elsewhere, written),
            "forget by a, then write along k alone: M <- a M - (...) k^T",
        ),
        "the length of the write": (
            _largest(length - wanted, length),
            "a step has length n |e| where |e| is under delta, and n delta elsewhere",
        ),
        "the direction of the write": (
            _largest(against, size[:, None] * force),
            "a step goes against e = a M k - v, where a M is the memory after forgetting",
        ),
        "the read": (_largest(read - token["read"], read), "y = M q, after the write"),
    }


def _largest(apart: Tensor, size: Tensor) -> float:
    return (apart.abs().max() / size.abs().max().clamp(min=1)).item()


SLOT = Slot(
    name="hw7",
    file="hw7_memory.py",
    title="A memory that outliers cannot overwrite",
    serve=_serve,
    subject=_Make,
    checks=[
        *MEMORY_CHECKS,
        Check("its objective is Huber's", _probe_huber, _judge_huber),
    ],
)
