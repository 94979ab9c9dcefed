"""Compare strategies on one kind of stream: tuned alike, measured on other seeds, and resumed.

Source: equal trials for all, as De Lange et al. 2021 (arXiv 1909.08383) ask for; the rule of one
standard error, Breiman et al. 1984; halving, Jamieson and Talwalkar 2016 (arXiv 1502.07943).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from nested.continual.config import TUNING, ContinualConfig
from nested.continual.metrics import average_accuracy, forgetting
from nested.continual.nets import Checkpointed, build_net
from nested.continual.registry import STRATEGIES
from nested.continual.run import Result, run
from nested.continual.strategy import Strategy, count_weights
from nested.continual.stream import Stream, make_stream
from nested.support.checks import check_counts
from nested.support.device import find_device
from nested.support.extras import needed
from nested.support.files import load_checkpoint, prepare_folder, save_checkpoint
from nested.support.progress import Progress
from nested.tasks.data_sets import load_data
from nested.tasks.labelled import LabelledData, labelled, split_again

RUNS, SAVE_EVERY, FORMAT = "runs.pt", 2.0, 2  # a file, seconds, of the file
ROUND = 8  # runs of each process that ray is given at once
BACKENDS = ("loky", "ray")
Settings = dict[str, float]


class Job(NamedTuple):
    """One run: a strategy with its settings, on the stream of one seed."""

    strategy: str
    settings: tuple[tuple[str, float], ...]
    seed: int


class Comparison(NamedTuple):
    """What ``compare`` measured: for each strategy its settings, and a result for each seed."""

    settings: dict[str, Settings]
    results: dict[str, list[Result]]


def compare(
    config: ContinualConfig,
    out: Path,
    *,
    jobs: int = 1,
    backend: str = "loky",
    resume: bool = False,
) -> Comparison:
    """Tune each strategy of ``config``, and measure it, in the folder ``out``.

    Tuning tries all settings on a quarter of its streams, and the best quarter of them on the rest.

    ``jobs`` processes run side by side, by joblib's ``backend``: "loky", or "ray" for a cluster.
    Runs are saved every two seconds. With ``resume`` a comparison that was stopped goes on, and one
    that has ended takes more trials, streams or strategies. Raises ``ValueError`` for a folder with
    another comparison, and as ``load_data`` and ``make_stream`` do."""
    check_counts(jobs=jobs)
    prepare_folder(out, RUNS)
    known = _known(out / RUNS, config, resume)
    for seed in (config.seed, TUNING):
        stream_of(config, seed)  # refuses before any work
    trials = {name: trial_settings(name, config) for name in config.strategies}
    seeds = range(TUNING, TUNING + config.tuning_seeds)
    few, others = seeds[: max(1, len(seeds) // 4)], seeds[max(1, len(seeds) // 4) :]
    each = config.trials * len(few) + -(-config.trials // 4) * len(others) + config.seeds
    with Progress(len(trials) * each) as progress:
        work = partial(_work, known, config, out, progress, jobs, backend)
        work([Job(n, s, seed) for n in trials for s in trials[n] for seed in few])
        good = {name: _best_quarter(name, trials[name], few, known) for name in trials}
        work([Job(n, s, seed) for n in good for s in good[n] for seed in others])
        best = {name: _best(name, good[name], seeds, known) for name in trials}
        measured = range(config.seed, config.seed + config.seeds)
        jobs_of = {name: [Job(name, best[name], seed) for seed in measured] for name in best}
        work([job for listed in jobs_of.values() for job in listed])
    results = {name: [known[job] for job in listed] for name, listed in jobs_of.items()}
    return Comparison({name: dict(settings) for name, settings in best.items()}, results)


def _work(
    known: dict[Job, Result],
    config: ContinualConfig,
    out: Path,
    progress: Progress,
    jobs: int,
    backend: str,
    wanted: list[Job],
) -> None:
    """Measure what is ``wanted`` and not ``known`` yet, and save it."""
    todo = [job for job in dict.fromkeys(wanted) if job not in known]
    progress.show(int(progress.task.completed) + len(wanted) - len(todo), "")
    saved_at = time.monotonic()
    try:
        for job, result in _all(todo, config, jobs, backend):
            known[job] = result
            if time.monotonic() > saved_at + SAVE_EVERY:
                _save(out / RUNS, config, known)
                saved_at = time.monotonic()
            share = average_accuracy(result.matrix)
            progress.show(int(progress.task.completed) + 1, f"{job.strategy}: accuracy {share:.3f}")
    finally:  # also after Ctrl-C
        _save(out / RUNS, config, known)


def trial_settings(name: str, config: ContinualConfig) -> list[tuple[tuple[str, float], ...]]:
    """Draw the settings that tuning tries: each number log-uniformly in its range."""
    generator, ranges = Generator().manual_seed(config.seed), STRATEGIES[name].ranges
    drawn = []
    for _ in range(config.trials):
        shares = torch.rand(len(ranges), generator=generator).tolist()
        numbers = [
            low * (high / low) ** share for share, (low, high) in zip(shares, ranges.values())
        ]
        drawn.append(tuple((n, _like(x, ranges[n])) for n, x in zip(ranges, numbers)))
    return drawn


def _like(number: float, ends: tuple[float, float]) -> float:
    """Round to three digits, or to a whole number where the range has whole ends."""
    return round(number) if all(type(end) is int for end in ends) else float(f"{number:.3g}")


def _best_quarter(name: str, trials: list, seeds: range, known: dict[Job, Result]) -> list:
    shares = _accuracies(_matrices(name, trials, seeds, known)).mean(1)
    order = shares.argsort(descending=True, stable=True).tolist()
    return [trials[i] for i in order[: -(-len(trials) // 4)]]


def _best(name: str, trials: list, seeds: range, known: dict[Job, Result]) -> tuple:
    """The settings that forget least, of those that are as accurate as the best ones: up to one
    standard error of the differences on the same streams."""
    matrices = _matrices(name, trials, seeds, known)
    shares = _accuracies(matrices)
    behind = shares[shares.mean(1).argmax()] - shares  # (trials, streams)
    is_level = behind.mean(1) <= behind.std(1, correction=0) / max(1, len(seeds) - 1) ** 0.5
    lost = torch.tensor([sum(map(forgetting, row)) for row in matrices])
    return trials[int(lost.where(is_level, torch.inf).argmin())]


def _matrices(name: str, trials: list, seeds: range, known: dict[Job, Result]) -> list[list]:
    """The matrix (T, T) of each of ``trials`` on each stream."""
    return [[known[Job(name, s, seed)].matrix for seed in seeds] for s in trials]


def _accuracies(matrices: list[list]) -> Tensor:
    """The accuracies of ``matrices``, (trials, streams)."""
    return torch.tensor([list(map(average_accuracy, row)) for row in matrices])


def _all(
    todo: list[Job], config: ContinualConfig, jobs: int, backend: str
) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result, as they end."""
    if jobs == 1:
        for job in todo:
            yield job, train(job, config)
        return
    library = needed("joblib", "continual")
    calls = [library.delayed(_named)(job, config) for job in todo]
    if backend != "ray":
        yield from library.Parallel(jobs, return_as="generator_unordered")(calls)
        return
    needed("ray", "cluster")
    from ray.util.joblib import register_ray

    register_ray()
    parallel = library.Parallel(jobs, backend=backend)
    for start in range(0, len(calls), ROUND * jobs):  # ray has no generator of results
        yield from parallel(calls[start : start + ROUND * jobs])


def _named(job: Job, config: ContinualConfig) -> tuple[Job, Result]:
    torch.set_num_threads(1)
    return job, train(job, config)


def train(job: Job, config: ContinualConfig) -> Result:
    """Run one job of ``config``."""
    stream = stream_of(config, job.seed)
    return run(
        new_strategy(job, stream, config), stream, epochs=config.epochs, precision=config.precision
    )


def stream_of(config: ContinualConfig, seed: int) -> Stream:
    """Make the stream of one seed of ``config``. Those of tuning, from ``TUNING`` on, are made of
    data to learn from alone. Raises ``ValueError`` as ``make_stream`` does."""
    data = _loaded(config.data, config.path, config.limit)
    data = data if seed < TUNING else split_again(data, seed)
    more = {name: getattr(config, name) for name in ("blur", "interference", "ood", "batch_size")}
    return make_stream(data, config.kind, config.tasks, seed=seed, **more)


def new_strategy(job: Job, stream: Stream, config: ContinualConfig) -> Strategy:
    """Make the strategy of ``job`` with a new net, and what it may store."""
    net = build_net(stream.shape, len(stream.names), config.net, config.width, job.seed)
    if config.checkpointing:
        net = Checkpointed(OrderedDict(net.named_children()))
    net = net.to(find_device(config.device))
    settings = {"budget": budget_of(config, net, stream), **dict(job.settings)}
    return STRATEGIES[job.strategy](net, seed=job.seed, **settings)


def budget_of(config: ContinualConfig, net: nn.Module, stream: Stream) -> int:
    """Compute how many numbers a strategy with ``net`` may store."""
    one = math.prod(stream.shape) + 2  # an example, its label and its task
    return int(config.copies * count_weights(net)) + config.examples * one


@cache
def _loaded(name: str, path: str | None, limit: int | None) -> LabelledData:
    data = load_data(name, path)
    if limit is None:
        return data
    rows = [(data.y == label).nonzero()[:, 0] for label in range(data.classes)]
    if data.domains is not None:  # some of each
        generator = Generator().manual_seed(0)
        rows = [part[torch.randperm(len(part), generator=generator)] for part in rows]
    kept = torch.cat([part[:limit] for part in rows]).sort().values
    more: dict[str, Any] = {"names": data.names, "categories": data.categories}
    held_out: tuple[Tensor, ...] = (data.held_x, data.held_y)
    if data.domains is not None:
        more["domains"], held_out = data.domains[kept], (*held_out, data.held_domains)
    return labelled(data.x[kept], data.y[kept], held_out, **more)


def _plain(config: ContinualConfig) -> dict[str, Any]:
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(config).items()}
    chosen_later = ("strategies", "seeds", "device", "trials", "tuning_seeds")
    kept = {name: value for name, value in plain.items() if name not in chosen_later}
    return {"format": FORMAT, **kept}


def _known(path: Path, config: ContinualConfig, resume: bool) -> dict[Job, Result]:
    if not path.exists():
        return {}
    if not resume:
        raise ValueError(f"{str(path.parent)!r} holds runs: take --resume, or another --out")
    content = load_checkpoint(path)
    if content.get("config") != _plain(config):
        raise ValueError(f"the runs in {str(path)!r} have other settings: take another --out")
    return {
        Job(name, tuple(map(tuple, settings)), seed): Result(*result)
        for name, settings, seed, result in content["runs"]
    }


def _save(path: Path, config: ContinualConfig, known: dict[Job, Result]) -> None:
    runs = [
        [job.strategy, list(map(list, job.settings)), job.seed, list(known[job])] for job in known
    ]
    save_checkpoint(path, {"config": _plain(config), "runs": runs})
