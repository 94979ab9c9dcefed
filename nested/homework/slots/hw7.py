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

from nested.conformance.check import Check, Evidence, Verdict, judge_equal
from nested.conformance.memory import MEMORY_CHECKS
from nested.conformance.memory_reads import DIM, draw, made
from nested.homework.remote import call, plant
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served
from nested.homework.slots.slot import Slot
from nested.levels.forward import Params, State
from nested.memory.gates import shut
from nested.memory.sequence import SequenceMemory

SIZES = (0.03, 0.3, 0.0, 1.0, 3.0, 30.0)  # of tokens: errors on both sides of any delta, and none
DELTAS = (1.0, 0.3)


class RemoteMemory(nn.Module):
    """A student's memory of width D = ``dim``, from x (B, T, D) and a state to y (B, T, D) and a
    state: its parameters are here, its code is there. Raises what the student's code raises."""

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

    def memory(
        dim: int, chunk: int, delta: float, detach_every: int | None, is_shut: bool
    ) -> SequenceMemory:
        which = dim, chunk, delta, detach_every, is_shut
        if which not in memories:
            torch.manual_seed(0)
            made = module.HuberMemory(dim, chunk, delta)
            if not isinstance(made, SequenceMemory):
                raise TypeError(f"a SequenceMemory is asked for, not {type(made).__name__}")
            made.detach_every = detach_every
            if is_shut:
                shut(made)
            memories[which] = made
        return memories[which]

    def describe(*which: Any) -> dict[str, Any]:
        return dict(memory(*which).named_parameters())

    def asked(method: str, own: Params, *rest: Any) -> Any:
        args, which = rest[:-5], rest[-5:]
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
    """Reads of tokens of many sizes, and those of a loop by the equation, with the same keys; and
    the largest slope of reads in what is read, where errors are none too."""
    memory, found = made(make, seed), {"ours": [], "others": []}
    x = draw(memory, seed)
    x = x * torch.tensor(SIZES, dtype=x.dtype).repeat(12)[: x.shape[1], None]
    for delta in DELTAS:
        memory.delta = delta
        with torch.no_grad():
            wanted = _huber(*memory.look(x), delta)
            found["ours"].append(memory(x)[0])
        found["others"].append(wanted)
    y = memory(x.requires_grad_())[0]
    found["slope"] = torch.autograd.grad(y.sum(), x)[0].abs().max().item()
    return found


def _judge_huber(evidence: Evidence) -> Verdict:
    verdict = judge_equal(
        "e = a M k - v; where |e|, the norm, is over delta, a step is n delta long"
    )(evidence)
    if verdict.passed and not math.isfinite(evidence["slope"]):
        hint = "where e = 0 its norm has no slope: divide by max(|e|, delta)"
        return Verdict(False, f"a gradient of {evidence['slope']} at an error of 0", hint)
    return verdict


def _huber(keys, values, queries, rates, log_kept, delta) -> Tensor:
    matrix, reads = torch.zeros(len(keys), DIM, DIM, dtype=keys.dtype), []
    for t in range(keys.shape[1]):
        k, v, q = (part[:, t, :, None] for part in (keys, values, queries))
        n, a = rates[:, t, None, None], log_kept[:, t, None, None].exp()
        error = a * matrix @ k - v
        size = error.norm(dim=1, keepdim=True)
        matrix = a * matrix - n * (delta / size).clamp(max=1) * error @ k.mT
        reads.append(matrix @ q)
    return torch.stack(reads, dim=1).squeeze(-1)


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
