"""Run a strategy through a stream, and measure it after each task.

Letters: T tasks, M held-out examples, C classes.
Source: the protocol of Lopez-Paz and Ranzato 2017 (arXiv 1706.08840).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from nested.continual.strategy import Strategy
from nested.continual.stream import Stream
from nested.support.checks import check_counts
from nested.support.files import load_checkpoint, save_checkpoint

FORMAT = "nested continual run 2"
PRECISIONS = ("float32", "bfloat16")
PLAIN = (bool, int, float, str, tuple)


class Result(NamedTuple):
    """What ``run`` measured.

    ``matrix`` (T, T) has the accuracies on the held-out data of task i (column) after task t (row),
    and ``untrained`` (T,) those before the first task. ``seconds`` are CPU seconds of learning.
    ``numbers`` are the most numbers stored, and ``kept`` the most bytes of all that is kept between
    batches: net, optimizer, and what is stored. ``moves`` says how often each level had moved after
    each task."""

    matrix: Tensor
    untrained: Tensor
    seconds: float
    numbers: int
    kept: int
    moves: dict[str, list[int]]


def run(
    strategy: Strategy,
    stream: Stream,
    *,
    epochs: int = 1,
    checkpoint: Path | str | None = None,
    precision: str = "float32",
    show: Callable[[int], Any] = lambda task: None,
) -> Result:
    """Let ``strategy`` learn ``stream``, with ``epochs`` passes over each task.

    After each task ``show`` gets its number, and the run is saved in the file ``checkpoint``, if
    any. A run that finds this file goes on with it, and ends with the same matrix. "bfloat16" as
    the ``precision`` computes by autocast. Raises ``ValueError`` for another precision, and for a
    file of another run."""
    check_counts(epochs=epochs)
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, but got {precision!r}")
    device = device_of(strategy)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    settings = _settings(strategy, stream, epochs, precision) if checkpoint else None
    saved = _saved(checkpoint, settings) if checkpoint else None
    with cast:
        so_far = saved["so_far"] if saved else _start(strategy, stream)
        if saved:
            strategy.load_state_dict(saved["strategy"])
        for task in range(len(so_far["matrix"]), len(stream)):
            started = time.process_time()
            for epoch in range(epochs):
                strategy.is_repeat = epoch > 0
                for x, y in stream.batches(task, epoch):
                    strategy.observe(x.to(device), y.to(device), known_task(stream, task))
            strategy.is_repeat = False
            before = _sizes(strategy)  # a strategy may drop something at the end of a task
            strategy.end_task(task)
            so_far["seconds"] += time.process_time() - started
            so_far["matrix"].append(measured(strategy, stream))
            for name, size in _sizes(strategy).items():
                so_far[name] = max(so_far[name], before[name], size)
            for name, count in getattr(strategy, "moves", {}).items():
                so_far["moves"].setdefault(name, []).append(count)
            if checkpoint:
                content = {"format": FORMAT, "settings": settings, "so_far": so_far}
                save_checkpoint(checkpoint, {**content, "strategy": strategy.state_dict()})
            show(task)
    return Result(**{**so_far, "matrix": torch.stack(so_far["matrix"])})


def known_task(stream: Stream, task: int) -> int | None:
    """Return ``task`` if learners of ``stream`` know it, else None."""
    return task if stream.kind == "task" else None


def measured(strategy: Strategy, stream: Stream) -> Tensor:
    """Compute the accuracy of ``strategy`` on the held-out data of each task, (T,)."""
    device, shares = device_of(strategy), []
    for task in range(len(stream)):
        x, y = stream.held_out(task)
        logits = strategy.logits(x.to(device), known_task(stream, task)).cpu()
        if stream.kind == "task":  # also before the learner knows its classes
            labels = stream.tasks[task].labels
            answers = labels[logits[:, labels].argmax(-1)]
        else:
            answers = logits.argmax(-1)
        shares.append((answers == y).double().mean())
    return torch.stack(shares)


def device_of(strategy: Strategy) -> torch.device:
    """Return where the net of ``strategy`` is, or the CPU if it has none."""
    net = getattr(strategy, "net", None)
    return torch.device("cpu") if net is None else next(net.parameters()).device


def _start(strategy: Strategy, stream: Stream) -> dict[str, Any]:
    so_far = {"untrained": measured(strategy, stream), "matrix": [], "seconds": 0.0}
    return {**so_far, "numbers": 0, "kept": 0, "moves": {}}


def _sizes(strategy: Strategy) -> dict[str, int]:
    """The numbers stored, and the bytes of all that is kept."""
    leaves = tree_leaves(strategy.state_dict())
    kept = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
    return {"numbers": strategy.numbers_stored(), "kept": kept}


def _settings(strategy: Strategy, stream: Stream, epochs: int, precision: str) -> dict[str, Any]:
    """What a run is made of: it goes on with the same alone."""
    nets = {name: v for name, v in vars(strategy).items() if isinstance(v, nn.Module)}
    learner = [[_plain(part), part.state_dict()] for part in (strategy, *nets.values())]
    tasks = [task._asdict() for task in stream.tasks]
    return {
        "strategy": [type(strategy).__name__, fingerprint(learner)],
        "stream": [stream.kind, stream.seed, stream.batch_size, fingerprint(tasks)],
        "passes": [epochs, precision],
    }


def _plain(part: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if type(value) in PLAIN}


def fingerprint(tree: Any) -> str:
    """Compute a checksum of all tensors (...) and other values in ``tree``."""
    checksum = hashlib.sha256()
    for path, leaf in tree_flatten_with_path(tree)[0]:
        checksum.update(repr(path).encode())
        if isinstance(leaf, Tensor):
            leaf = leaf.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        checksum.update(leaf if isinstance(leaf, bytes) else repr(leaf).encode())
    return checksum.hexdigest()


def _saved(path: Path | str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The content of the file ``path``, or None if there is none."""
    try:
        content = load_checkpoint(path)
    except FileNotFoundError:
        return None
    if content.get("format") != FORMAT or content["settings"] != settings:
        raise ValueError(
            f"{str(path)!r} is no run of this strategy with these settings on this stream: delete"
            " it, or choose another file"
        )
    return content
