"""Run a student's code, and answer the grader's questions with tensors.

``python -m nested.homework.worker SOCKET SLOT FILE SECONDS MEMORY`` starts it. It judges nothing. A
question names a function of the slot, its arguments, and the transforms to apply. "tasks" is
``torch.vmap``. "vjp" is the derivative times given cotangents, and can be differentiated again.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

import nested
from nested.homework.limits import limit_this_process
from nested.homework.slots import SLOTS
from nested.homework.wire import Descriptor, receive, send

Function = Callable[..., tuple[Tensor, ...]]  # of flat tensors (...)


def load(path: Path, seed: int = 0) -> ModuleType:
    """Import a student's file as a module. Its exceptions pass through.

    ``seed`` sets the global random state, so that the same file always gets the same verdict."""
    torch.manual_seed(seed)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def answer(served: dict[str, Callable], question: dict[str, Any]) -> dict[str, Any]:
    """Answer one question: {"out": the result, "changed": {place: tensor (...)}}.

    "changed" holds the arguments that the function wrote to. Raises ``TypeError`` for results that
    are no tensors. Exceptions of the student's code pass through."""
    function = served[question["function"]]
    if not question["args"]:
        return {"out": function(*question["static"]), "changed": {}}
    leaves, spec = tree_flatten(question["args"])
    tensors = [*leaves, *question["extra"]]
    shape = {}

    def base(*arguments: Tensor) -> tuple[Tensor, ...]:
        out = function(*tree_unflatten(list(arguments), spec), *question["static"])
        results, shape["out"] = tree_flatten(out)
        for leaf in results:
            if not isinstance(leaf, Tensor):
                raise TypeError(f"return a tensor here, not a {type(leaf).__name__}")
        return tuple(results)

    transformed = base
    for name, count in question["transforms"]:
        transformed = _vjp(transformed, count) if name == "vjp" else _tasks(transformed)
    before = [x.clone() for x in tensors]
    out = transformed(*tensors)
    changed = {
        str(i): x
        for i, (x, old) in enumerate(zip(tensors, before, strict=True))
        if not (torch.equal(x, old) or ((x == old) | (x.isnan() & old.isnan())).all())
    }
    is_derivative = any(name == "vjp" for name, _ in question["transforms"])
    return {
        "out": list(out) if is_derivative else tree_unflatten(list(out), shape["out"]),
        "changed": changed,
    }


def _tasks(function: Function) -> Function:
    return torch.vmap(function, randomness="different")


def _vjp(function: Function, count: int) -> Function:
    """Make a function from ``count`` arguments and all cotangents to all gradients."""

    def derivative(*tensors: Tensor) -> tuple[Tensor, ...]:
        again = any(x.requires_grad for x in tensors)  # the derivative will be differentiated too
        with torch.enable_grad():
            points = [
                x if x.requires_grad or not x.is_floating_point() else x.detach().requires_grad_()
                for x in tensors[:count]
            ]
            pairs = list(zip(function(*points), tensors[count:], strict=True))
            pairs = [(out, cotangent) for out, cotangent in pairs if out.requires_grad]
            moving = [x for x in points if x.requires_grad]
            grads = [torch.zeros_like(x) for x in moving]
            if pairs:
                outs, cotangents = zip(*pairs)
                grads = torch.autograd.grad(
                    outs, moving, cotangents, create_graph=again, materialize_grads=True
                )
        results = iter(grads)
        return tuple(next(results) if x.requires_grad else torch.zeros_like(x) for x in points)

    return derivative


def explain(error: BaseException, path: Path) -> dict[str, Any]:
    """Describe an exception as plain data: its type, its first line, and the student's line."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename) == path]
    line, text = (inside[-1].lineno, inside[-1].line) if inside else (0, "")
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, text = error.lineno or 0, (error.text or "").strip()
    message = (str(error).strip().splitlines() or [""])[0]
    return {"error": type(error).__name__, "message": message[:500], "line": line, "text": text}


def main(arguments: list[str]) -> None:
    """Read the student's file, report on that, and answer questions until the grader is gone."""
    number, slot, file, seconds, memory = arguments
    wire, path = Descriptor(int(number)), Path(file)
    torch.set_num_threads(1)
    try:
        package = Path(nested.__file__).parent
        limit_this_process(int(seconds), int(memory), path, package)
        served = SLOTS[slot].serve(load(path))
        send(wire, {"out": "ready"})
    except BaseException as error:  # SystemExit too: the grader must learn of it
        send(wire, explain(error, path))
        return
    while True:
        try:
            question = receive(wire)
        except EOFError:
            return
        try:
            reply = answer(served, question)
            send(wire, reply)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            send(wire, explain(error, path))


if __name__ == "__main__":
    main(sys.argv[1:])
