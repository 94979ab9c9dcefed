"""Run a strategy through a stream, and measure it after each task.

Letters: T tasks, M held-out examples, C classes.
Source: the protocol of Lopez-Paz and Ranzato 2017 (arXiv 1706.08840).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nested.continual.strategy import Strategy
from nested.continual.stream import Stream
from nested.support.checks import check_counts
from nested.support.files import load_checkpoint, save_checkpoint

FORMAT = "nested continual run 1"


class Result(NamedTuple):
    """What ``run`` measured.

    ``matrix`` (T, T) has the accuracies on the held-out data of task i (column) after task t (row),
    and ``untrained`` (T,) those before the first task. ``numbers`` are the most numbers stored.
    ``moves`` says how often each level had moved after each task."""

    matrix: Tensor
    untrained: Tensor
    seconds: float
    numbers: int
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
    the ``precision`` computes by autocast. Raises ``ValueError`` for a file of another run."""
    check_counts(epochs=epochs)
    device = next(strategy.net.parameters()).device
    cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    done, seconds, moves, numbers = [], 0.0, {}, 0
    saved = _saved(checkpoint, strategy, len(stream)) if checkpoint else None
    with cast:
        if saved is None:
            untrained = measured(strategy, stream)
        else:
            strategy.load_state_dict(saved["strategy"])
            untrained, done, seconds = saved["untrained"], list(saved["matrix"]), saved["seconds"]
            moves, numbers = saved["moves"], saved["numbers"]
        for task in range(len(done), len(stream)):
            started = time.process_time()
            for epoch in range(epochs):
                for x, y in stream.batches(task, epoch):
                    strategy.observe(x.to(device), y.to(device), known_task(stream, task))
            strategy.end_task(task)
            seconds += time.process_time() - started
            done.append(measured(strategy, stream))
            numbers = max(numbers, strategy.numbers_stored())
            for name, count in strategy.moves.items():
                moves.setdefault(name, []).append(count)
            if checkpoint:
                content = {"format": FORMAT, "matrix": torch.stack(done), "untrained": untrained}
                content |= {"seconds": seconds, "moves": moves, "numbers": numbers}
                save_checkpoint(checkpoint, {**content, "strategy": strategy.state_dict()})
            show(task)
    return Result(torch.stack(done), untrained, seconds, numbers, moves)


def known_task(stream: Stream, task: int) -> int | None:
    """Return ``task`` if learners of ``stream`` know it, else None."""
    return task if stream.kind == "task" else None


def measured(strategy: Strategy, stream: Stream) -> Tensor:
    """Compute the accuracy of ``strategy`` on the held-out data of each task, (T,)."""
    device, shares = next(strategy.net.parameters()).device, []
    for task in range(len(stream)):
        x, y = stream.held_out(task)
        answers = strategy.logits(x.to(device), known_task(stream, task)).argmax(-1).cpu()
        shares.append((answers == y).double().mean())
    return torch.stack(shares)


def _saved(path: Path | str, strategy: Strategy, tasks: int) -> dict[str, Any] | None:
    """The content of the file ``path``, or None if there is none."""
    try:
        content = load_checkpoint(path)
    except FileNotFoundError:
        return None
    if content.get("format") != FORMAT or content["matrix"].shape[1] != tasks:
        raise ValueError(f"{str(path)!r} is no run of this stream: delete it, or choose another")
    return content
