"""Slot hw7: a memory with a robust objective, which an outlier cannot overwrite.

Letters: B samples, T tokens, D width.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nested.conformance.check import Check, Evidence, judge_equal
from nested.conformance.memory import MEMORY_CHECKS
from nested.conformance.memory_reads import DIM, draw, made
from nested.homework.remote import call, plant
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served
from nested.homework.slots.slot import Slot
from nested.levels.forward import Params, State
from nested.memory.gates import shut
from nested.memory.sequence import SequenceMemory

SIZES = (0.03, 0.3, 1.0, 3.0, 30.0)  # of tokens: errors on both sides of any delta


class RemoteMemory(nn.Module):
    """A student's memory of width D = ``dim``, from x (B, T, D) and a state to y (B, T, D) and a
    state: its parameters are here, its code is there. Raises what the student's code raises."""

    def __init__(self, sandbox: Sandbox, dim: int, chunk: int) -> None:
        super().__init__()
        self._sandbox, self.dim, self.chunk = sandbox, dim, chunk
        self.detach_every, self.is_shut = None, False
        about = sandbox.ask("describe", static=self._which())["out"]
        self.delta = about["delta"]
        for name, tensor in about["parameters"].items():
            plant(self, name, nn.Parameter(tensor))

    def _which(self) -> tuple:
        return self.dim, self.chunk, self.detach_every, self.is_shut

    def _call(self, function: str, *args: Any) -> Any:
        own = dict(self.named_parameters())
        return call(self._sandbox, function, own, *args, static=self._which())

    def init(self, batch_size: int) -> State:
        """Its first state, nested tensors (B, ...)."""
        return self._call("init", torch.zeros(batch_size))

    def look(self, x: Tensor) -> tuple[Tensor, ...]:
        """What it makes of x (B, T, D) before it reads."""
        return self._call("look", x)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self._call("begin", x) if state is None else self._call("forward", x, state)

    def shut(self) -> None:
        """From now on ask the student's memory with its gates shut."""
        self.is_shut = True


def _serve(module: ModuleType) -> Served:
    memories = {}

    def memory(dim: int, chunk: int, detach_every: int | None, is_shut: bool) -> SequenceMemory:
        which = dim, chunk, detach_every, is_shut
        if which not in memories:
            torch.manual_seed(0)
            made = module.HuberMemory(dim, chunk)
            if not isinstance(made, SequenceMemory):
                raise TypeError(f"a SequenceMemory is asked for, not {type(made).__name__}")
            made.detach_every = detach_every
            if is_shut:
                shut(made)
            memories[which] = made
        return memories[which]

    def describe(*which: Any) -> dict[str, Any]:
        made = memory(*which)
        return {"delta": float(made.delta), "parameters": dict(made.named_parameters())}

    def asked(method: str, own: Params, *rest: Any) -> Any:
        args, which = rest[:-4], rest[-4:]
        names = {f"memory.{name}": tensor for name, tensor in own.items()}
        return functional_call(_Asked(memory(*which), method), names, args)

    return {
        "describe": describe,
        "begin": lambda *args: asked("forward", *args),
        "forward": lambda *args: asked("forward", *args),
        "look": lambda *args: asked("look", *args),
        "init": lambda *args: asked("init", *args),
    }


class _Asked(nn.Module):
    """One method of a memory as a module, so that it can be called with parameters that came."""

    def __init__(self, memory: nn.Module, method: str) -> None:
        super().__init__()
        self.memory, self.method = memory, method

    def forward(self, *args: Any) -> Any:
        if self.method == "init":
            return self.memory.init(len(args[0]))
        return getattr(self.memory, self.method)(*args)


class _Make:
    """``make(dim, chunk)`` of the student's memories, for ``check_memory``."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def __call__(self, dim: int, chunk: int) -> RemoteMemory:
        return RemoteMemory(self.sandbox, dim, chunk)


def _probe_huber(make: Any, seed: int) -> Evidence:
    """Reads of tokens of many sizes, and those of a loop by the equation, with the same keys."""
    memory = made(make, seed)
    if not (math.isfinite(memory.delta) and memory.delta > 0):
        raise ValueError(f"delta is a number above 0, but got {memory.delta}")
    x = draw(memory, seed)
    x = x * torch.tensor(SIZES, dtype=x.dtype).repeat(14)[: x.shape[1], None]
    with torch.no_grad():
        y, (keys, values, queries, rates, log_kept) = memory(x)[0], memory.look(x)
        wanted, clipped = _huber(keys, values, queries, rates, log_kept, memory.delta)
    both = torch.tensor([clipped > 0, clipped < keys[..., 0].numel()])
    return {"ours": [y, both], "others": [wanted, torch.ones_like(both)]}


def _huber(keys, values, queries, rates, log_kept, delta) -> tuple[Tensor, int]:
    matrix, reads, clipped = torch.zeros(len(keys), DIM, DIM, dtype=keys.dtype), [], 0
    for t in range(keys.shape[1]):
        k, v, q = (part[:, t, :, None] for part in (keys, values, queries))
        n, a = rates[:, t, None, None], log_kept[:, t, None, None].exp()
        error = a * matrix @ k - v
        size = error.norm(dim=1, keepdim=True)
        clipped += int((size > delta).sum())
        matrix = a * matrix - n * (delta / size).clamp(max=1) * error @ k.mT
        reads.append(matrix @ q)
    return torch.stack(reads, dim=1).squeeze(-1), clipped


SLOT = Slot(
    name="hw7",
    file="hw7_memory.py",
    title="A memory that outliers cannot overwrite",
    serve=_serve,
    subject=_Make,
    checks=[
        *MEMORY_CHECKS,
        Check(
            "its objective is Huber's",
            _probe_huber,
            judge_equal(
                "e = a M k - v; where |e|, the norm, is over delta, the step has length n delta"
            ),
        ),
    ],
)
