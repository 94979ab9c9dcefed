"""Teach the rule of "meta-learned" on streams of characters.   python -m nested.continual.teach

Letters: T streams side by side, K batches of a task, B new examples of a batch, R rehearsed ones.
Source: hypergradients through whole streams, clipped, and Adam, as in ``nested.meta``.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from nested.continual.meta_learned import SHIPPED
from nested.continual.nets import build_net
from nested.continual.reservoir import Reservoir
from nested.continual.steady import SteadyRule
from nested.levels.forward import Batch, Params, functional_loss
from nested.support.checks import check_counts, check_seed
from nested.support.files import prepare_folder, save_checkpoint
from nested.support.progress import Progress
from nested.tasks.data_sets import all_glyphs
from nested.tasks.labelled import LabelledData
from nested.unroll import unroll_tasks

TASKS, WAYS, LENGTH = 5, 2, 12  # tasks of a stream, classes of a task, batches of a task
NEW, OLD, SLOTS, QUERIES, WIDTH = 10, 10, 50, 100, 32
STEPS, COUNT, LR, LONGEST = 200, 16, 0.03, 1.0  # of meta-training: moves, streams, rate, clip


def criterion(logits: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Return the weighted cross entropy of logits (B, C), with targets (labels (B,), weights (B,)),
    ()."""
    labels, weights = targets
    return cross_entropy(logits, labels, reduction="none") @ weights


class Streams:
    """Draws streams of characters: of even ones to learn from, of odd ones held out."""

    def __init__(self, data: LabelledData, is_held_out: bool, tasks: int = TASKS) -> None:
        self.data, self.tasks = data, tasks
        self.classes = torch.arange(data.classes)[int(is_held_out) :: 2]
        self.rows = [(data.y == label).nonzero()[:, 0] for label in range(data.classes)]

    def sample(self, generator: Generator) -> tuple[list[Batch], list[Batch]]:
        """Draw one stream: its batches, and after each task a query of all classes so far. A batch
        is a pair of x (N, ...) and their labels and weights, (N,) each, with N = B + R."""
        chosen = self.classes[torch.randperm(len(self.classes), generator=generator)]
        chosen = chosen[: WAYS * self.tasks]
        memory, batches, queries = Reservoir(SLOTS), [], []
        for task in range(self.tasks):
            labels = range(WAYS * task, WAYS * (task + 1))
            rows = torch.cat([self.rows[chosen[label]] for label in labels])
            y = torch.cat([torch.full_like(self.rows[chosen[label]], label) for label in labels])
            order = torch.randperm(len(rows), generator=generator)[: NEW * LENGTH]
            for new in order.split(NEW):
                old = memory.draw(generator, OLD)
                batches.append(self._batch((rows[new], y[new]), old))
                memory.add(generator, rows[new], y[new])
            queries.append(self._query(chosen[: WAYS * (task + 1)], generator))
        return batches, queries

    def _batch(self, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> Batch:
        """Join new and rehearsed examples, (rows, labels) each. Where rehearsed ones are missing,
        the first new one fills up with weight 0, so that all batches have one shape."""
        count = len(old[0]) if old else 0
        fill = tuple(part[:1].expand(OLD - count) for part in new)
        parts = (new, old, fill) if old else (new, fill)
        rows, labels = (torch.cat(part) for part in zip(*parts))
        weights = torch.zeros(len(rows))
        weights[: len(new[0])] = 1 / len(new[0])
        weights[len(new[0]) : len(new[0]) + count] = 1 / max(1, count)
        return self.data.x[rows], (labels, weights)

    def _query(self, chosen: Tensor, generator: Generator) -> Batch:
        data = self.data
        rows = torch.isin(data.held_y, chosen).nonzero()[:, 0]
        rows = rows[torch.randint(len(rows), (QUERIES,), generator=generator)]
        labels = (data.held_y[rows][:, None] == chosen).long().argmax(1)
        return data.held_x[rows], (labels, torch.full((QUERIES,), 1 / QUERIES))

    def samples(self, count: int, generator: Generator) -> tuple[list[Batch], list[Batch]]:
        """Draw ``count`` streams side by side: each tensor (T, ...) has a leading T."""
        drawn = [self.sample(generator) for _ in range(count)]
        return tuple([_stacked(parts) for parts in zip(*side)] for side in zip(*drawn))


def _stacked(batches: tuple[Batch, ...]) -> Batch:
    x = torch.stack([x for x, _ in batches])
    targets = zip(*(targets for _, targets in batches))
    return x, tuple(torch.stack(part) for part in targets)


def scores(
    rule: SteadyRule, streams: Streams, count: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Let ``rule`` learn ``count`` streams, T at once. Returns the meta-loss, (), with its graph,
    and the accuracy of each stream after its last task, (T,)."""
    net = build_net(tuple(streams.data.x.shape[1:]), 2 * WAYS * TASKS, width=WIDTH)
    loss_fn = functional_loss(net, criterion)
    batches, queries = streams.samples(count, generator)
    params, state, losses = first_weights(net.state_dict(), count, generator), None, []
    for task, query in enumerate(queries):
        part = batches[LENGTH * task : LENGTH * (task + 1)]
        params, state, _, _ = unroll_tasks(loss_fn, params, part, rule, state)
        losses.append(torch.vmap(loss_fn)(state["slow"], query).mean())
    with torch.no_grad():
        x, (labels, _) = queries[-1]
        slow = state["slow"]
        answers = torch.vmap(lambda w, x: torch.func.functional_call(net, w, (x,)))(slow, x)
        accuracy = (answers.argmax(-1) == labels).float().mean(1)
    return torch.stack(losses).mean(), accuracy


def first_weights(like: Params, count: int, generator: Generator) -> Params:
    """Draw ``count`` first weights {name: (T, ...)} as ``nn.Linear`` draws them."""
    drawn, bound = {}, 0.0
    for name, weight in like.items():
        bound = 1 / math.sqrt(weight[0].numel()) if weight.dim() > 1 else bound
        shares = torch.rand(count, *weight.shape, generator=generator)
        drawn[name] = bound * (2 * shares - 1)
    return drawn


def teach(steps: int = STEPS, count: int = COUNT, seed: int = 0) -> SteadyRule:
    """Meta-train a rule: ``steps`` moves, each through ``count`` whole streams."""
    rule, generator = SteadyRule(), Generator().manual_seed(seed)
    streams = Streams(all_glyphs(), is_held_out=False)
    optimizer = torch.optim.Adam(rule.parameters(), LR)
    with Progress(steps) as progress:
        for step in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = LR * (0.05 + 0.95 * (1 - step / steps))
            optimizer.zero_grad()
            loss, accuracy = scores(rule, streams, count, generator)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(rule.parameters(), LONGEST)
            if norm.isfinite():
                optimizer.step()
            progress.show(step, f"meta-loss {loss.item():.3f}, accuracy {accuracy.mean():.3f}")
    return rule


@torch.no_grad()
def compared(rule: SteadyRule, count: int = 64) -> dict[int, tuple[float, float]]:
    """Compare ``rule`` with the untrained one on held-out streams, of as many tasks as in
    meta-training and of twice as many. Prints accuracies. Returns {tasks: (mean difference, its
    standard error)}."""
    differences = {}
    for tasks in (TASKS, 2 * TASKS):
        streams = Streams(all_glyphs(), is_held_out=True, tasks=tasks)
        both = [
            scores(one, streams, count, Generator().manual_seed(77))[1]
            for one in (SteadyRule(), rule)
        ]
        apart = both[1] - both[0]
        differences[tasks] = apart.mean().item(), (apart.std() / count**0.5).item()
        before, after = (accuracy.mean().item() for accuracy in both)
        print(f"held-out streams of {tasks} tasks: accuracy {before:.3f} before, {after:.3f} after")
    return differences


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nested.continual.teach")
    parser.add_argument("--steps", type=int, default=STEPS, help="moves of the rule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/steady.pt"), help="file of the rule")
    args = parser.parse_args(arguments)
    try:
        check_counts(steps=args.steps)
        check_seed(args.seed)
        prepare_folder(args.out.parent)
        rule = teach(args.steps, seed=args.seed)
        save_checkpoint(args.out, {"rule": rule.state_dict()})
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    compared(rule)
    for name, numbers in rule.numbers().items():
        print(name, [[round(x, 4) for x in row] for row in numbers.tolist()])
    print(f"the rule is in {args.out}; the one that ships is {SHIPPED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
