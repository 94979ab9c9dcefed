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
from torch.utils._pytree import tree_leaves

from nested.continual.strategy import Strategy
from nested.continual.stream import Stream
from nested.support.checks import check_counts
from nested.support.files import load_checkpoint, save_checkpoint

FORMAT = "nested continual run 2"
PRECISIONS = ("float32", "bfloat16")


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
    settings = {"epochs": epochs, "precision": precision, **_settings(strategy, stream)}
    device = next(strategy.net.parameters()).device
    cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    saved = _saved(checkpoint, settings) if checkpoint else None
    with cast:
        so_far = saved["so_far"] if saved else _start(strategy, stream)
        if saved:
            strategy.load_state_dict(saved["strategy"])
        for task in range(len(so_far["matrix"]), len(stream)):
            started = time.process_time()
            for epoch in range(epochs):
                for x, y in stream.batches(task, epoch):
                    strategy.observe(x.to(device), y.to(device), known_task(stream, task))
            before = _sizes(strategy)  # a strategy may drop something at the end of a task
            strategy.end_task(task)
            so_far["seconds"] += time.process_time() - started
            so_far["matrix"].append(measured(strategy, stream))
            for name, size in _sizes(strategy).items():
                so_far[name] = max(so_far[name], before[name], size)
            for name, count in strategy.moves.items():
                so_far["moves"][name].append(count)
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
    device, shares = next(strategy.net.parameters()).device, []
    for task in range(len(stream)):
        x, y = stream.held_out(task)
        answers = strategy.logits(x.to(device), known_task(stream, task)).argmax(-1).cpu()
        shares.append((answers == y).double().mean())
    return torch.stack(shares)


def _start(strategy: Strategy, stream: Stream) -> dict[str, Any]:
    moves = {name: [] for name in strategy.moves}
    so_far = {"untrained": measured(strategy, stream), "matrix": [], "seconds": 0.0}
    return {**so_far, "numbers": 0, "kept": 0, "moves": moves}


def _sizes(strategy: Strategy) -> dict[str, int]:
    """The numbers stored, and the bytes of all that is kept."""
    leaves = tree_leaves(strategy.state_dict())
    kept = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
    return {"numbers": strategy.numbers_stored(), "kept": kept}


def _settings(strategy: Strategy, stream: Stream) -> dict[str, Any]:
    """What a run was made of: it goes on with the same alone."""
    plain = {n: v for n, v in vars(strategy).items() if type(v) in (int, float, str)}
    lr = [group["lr"] for group in strategy.optimizer.param_groups]
    return {
        "strategy": {"class": type(strategy).__name__, "lr": lr, **plain},
        "stream": [stream.kind, stream.seed, stream.batch_size, list(stream.names)],
        "rows": [task.rows.tolist() for task in stream.tasks],
    }


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
