"""Streams of tasks: who learns what, in which order, and what else comes in between.

Letters: N examples of a task, M held out, T tasks, B examples of a batch.
Source: the three scenarios of van de Ven and Tolias 2019 (arXiv 1904.07734); blurry boundaries
after Bang et al. 2021 (arXiv 2103.17230), where here only the next task leaks in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from nested.continual.composition import check_shares, composition
from nested.support.checks import check_counts, check_seed
from nested.tasks.domains import change_domain
from nested.tasks.labelled import LabelledData, labelled

KINDS = ("class", "domain", "task", "mixed")
ORIGINS = ("own", "to come", "returned", "out of distribution")


class StreamTask(NamedTuple):
    """One task of a stream: its examples in order, and those held out.

    ``rows`` are the places of the examples in the data, and ``origins`` says why each of them comes
    in this task, as a place in ``ORIGINS``. ``labels`` are the classes of the task."""

    x: Tensor  # (N, ...)
    y: Tensor  # (N,)
    rows: Tensor  # (N,)
    origins: Tensor  # (N,)
    labels: Tensor
    held_x: Tensor  # (M, ...)
    held_y: Tensor  # (M,)


class Stream:
    """Tasks one after the other. ``make_stream`` builds it.

    Iterating yields batches (x (B, ...), y (B,), task), always the same ones. ``kind`` is the kind
    of the stream, ``names`` are those of its classes, and ``tasks`` are its parts."""

    def __init__(
        self, kind: str, names: tuple[str, ...], tasks: list[StreamTask], batch_size: int, seed: int
    ) -> None:
        self.kind, self.names, self.tasks = kind, names, tasks
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.tasks[0].x.shape[1:])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        for task in range(len(self)):
            for x, y in self.batches(task):
                yield x, y, task

    def batches(self, task: int, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches (x (B, ...), y (B,)) of one ``task``, in an order of each ``epoch``."""
        part = self.tasks[task]
        generator = Generator().manual_seed(((self.seed * 8191 + task) * 8191 + epoch) % 2**63)
        order = torch.randperm(len(part.y), generator=generator)
        for rows in (order if epoch else order.sort().values).split(self.batch_size):
            yield part.x[rows], part.y[rows]

    def held_out(self, task: int) -> tuple[Tensor, Tensor]:
        """Return the held-out examples of ``task``, (x (M, ...), y (M,)). Raises ``ValueError`` for
        a task that the stream does not have."""
        if type(task) is not int or not 0 <= task < len(self):
            raise ValueError(f"tasks are 0 to {len(self) - 1}, but got {task!r}")
        return self.tasks[task].held_x, self.tasks[task].held_y

    def describe(self) -> str:
        """Return a table of what comes in each task, in shares of its examples."""
        head = f"{'task':>4}  {'examples':>8}  " + "  ".join(ORIGINS) + "  classes"
        lines = [head]
        for number, task in enumerate(self.tasks):
            shares = task.origins.bincount(minlength=len(ORIGINS)) / len(task.origins)
            cells = [f"{s:>{len(o)}.2f}" for s, o in zip(shares.tolist(), ORIGINS)]
            names = " ".join(self.names[label] for label in task.labels.tolist())
            row = f"{number:>4}  {len(task.y):>8}  " + "  ".join(cells)
            lines.append(f"{row}  {names[:60]}")
        return "\n".join(lines)


def make_stream(
    data: LabelledData | tuple[Any, Any],
    kind: str = "class",
    tasks: int = 5,
    *,
    blur: float = 0.0,
    interference: float = 0.0,
    ood: float = 0.0,
    batch_size: int = 10,
    seed: int = 0,
) -> Stream:
    """Split labelled ``data`` into a stream of ``tasks``, in which each example comes once.

    ``data`` comes from ``labelled``, or is (x, y). What a task is depends on the ``kind``.

    - A "class" task has some of the classes, in an order drawn by ``seed``. The learner has to tell
      all classes apart.
    - A "task" is the same, but the learner knows it, also when it is asked.
    - A "domain" task has all classes, in another domain. Domains are those of the data, in their
      order. Without them images are turned by some angle, and features come in another order.
    - A "mixed" task has classes of different categories. Those of one category are spread over
      tasks.

    The ratios are shares of the examples of a task. ``blur``: classes to come leak in from the next
    task. The last task has none. ``interference``: examples of past tasks return. The first task
    has none. ``ood``: the features of an example are shuffled, and its label is drawn from the
    classes of the task. With few features this is little more than a random label.

    Raises ``ValueError`` for an unknown kind, for more tasks than classes, domains or examples, and
    for ratios that are no shares. It does so too for a task without examples of its own or held-out
    ones, and as ``labelled`` does."""
    check_counts(tasks=tasks, batch_size=batch_size)
    check_seed(seed)
    if kind not in KINDS:
        raise ValueError(f"a stream is of kind {', '.join(KINDS)}, but got {kind!r}")
    check_shares(blur=blur, interference=interference, ood=ood)
    if kind == "task" and (blur or interference):
        raise ValueError(
            "learners of a stream of kind 'task' know the task, so no other task can leak in: take"
            " blur 0 and interference 0, or the kind 'class'"
        )
    data = _as_labelled(data, seed)
    generator = Generator().manual_seed(seed)
    if kind == "domain":
        groups, labels = _domains(data, tasks, generator), [torch.arange(data.classes)] * tasks
    else:
        labels = _class_groups(data, kind, tasks, generator)
        task_of = torch.empty(data.classes, dtype=torch.long)
        for task, classes in enumerate(labels):
            task_of[classes] = task
        groups = task_of[data.y]
    counts = composition(groups.bincount(minlength=tasks), blur, interference)
    pools = [_shuffled((groups == task).nonzero()[:, 0], generator) for task in range(tasks)]
    parts = []
    for task in range(tasks):
        drawn = [pools[source][: counts[task][source]] for source in range(tasks)]
        pools = [pools[source][counts[task][source] :] for source in range(tasks)]
        parts.append(_task(data, kind, tasks, task, labels[task], drawn, ood, generator))
    return Stream(kind, data.names, parts, batch_size, seed)


def _as_labelled(data: Any, seed: int) -> LabelledData:
    if isinstance(data, LabelledData):
        return data
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(f"data are (x, y), or come from labelled, but got {type(data)}")
    return labelled(*data, seed=seed)


def _task(
    data: LabelledData,
    kind: str,
    tasks: int,
    task: int,
    labels: Tensor,
    drawn: list[Tensor],
    ood: float,
    generator: Generator,
) -> StreamTask:
    """Build one task from the rows ``drawn`` of each group."""
    sources = torch.cat([torch.full_like(rows, group) for group, rows in enumerate(drawn)])
    order = torch.randperm(len(sources), generator=generator)
    rows, sources = torch.cat(drawn)[order], sources[order]
    x, y, is_made = data.x[rows], data.y[rows], kind == "domain" and data.domains is None
    for group in sources.unique().tolist() if is_made else ():
        x[sources == group] = change_domain(x[sources == group], group, tasks)
    origins = 1 * (sources > task) + 2 * (sources < task)
    outside = _shuffled((origins == 0).nonzero()[:, 0], generator)[: round(ood * len(rows))]
    for i in outside.tolist():
        shuffled = torch.randperm(x[i].numel(), generator=generator)
        x[i] = x[i].flatten()[shuffled].view_as(x[i])
        y[i] = labels[torch.randint(len(labels), (), generator=generator)]
    origins[outside] = 3
    if kind != "domain":
        is_mine = torch.isin(data.held_y, labels)
    elif data.domains is not None:
        is_mine = task_of_domain(data.domains, tasks)[data.held_domains] == task
    else:
        is_mine = torch.ones(len(data.held_y), dtype=torch.bool)
    if not is_mine.any():
        raise ValueError(f"task {task} has no held-out example: take fewer tasks, or more examples")
    held_x = change_domain(data.held_x, task, tasks) if is_made else data.held_x[is_mine]
    return StreamTask(x, y, rows, origins, labels, held_x, data.held_y[is_mine])


def _class_groups(data: LabelledData, kind: str, tasks: int, generator: Generator) -> list[Tensor]:
    """Deal the classes to ``tasks``, as evenly as possible."""
    if tasks > data.classes:
        raise ValueError(f"{data.classes} classes cannot be split into {tasks} tasks: take fewer")
    order = torch.randperm(data.classes, generator=generator)
    if kind != "mixed":
        return [part.sort().values for part in order.tensor_split(tasks)]
    if data.categories is None:
        raise ValueError("a mixed stream needs categories of the classes: pass them to labelled")
    # one category after the other, dealt like cards
    cards = order[torch.tensor(data.categories)[order].sort(stable=True).indices]
    return [cards[task::tasks].sort().values for task in range(tasks)]


def _domains(data: LabelledData, tasks: int, generator: Generator) -> Tensor:
    """The task of each example."""
    if data.domains is not None:
        return task_of_domain(data.domains, tasks)[data.domains]
    if tasks > len(data.y):
        raise ValueError(f"{len(data.y)} examples cannot be split into {tasks} tasks: take fewer")
    return _shuffled(torch.arange(len(data.y)) % tasks, generator)


def task_of_domain(domains: Tensor, tasks: int) -> Tensor:
    """Split the ``domains`` (N,) of the examples into ``tasks``, in their order, as evenly as
    possible. Returns the task of each domain, (D,). Raises ``ValueError`` for too few domains."""
    known = domains.unique()
    if tasks > len(known):
        raise ValueError(f"{len(known)} domains cannot be split into {tasks} tasks: take fewer")
    return torch.cat([torch.full_like(p, i) for i, p in enumerate(known.tensor_split(tasks))])


def _shuffled(rows: Tensor, generator: Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]
