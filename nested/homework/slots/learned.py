"""Can a family be learned, and is what is learned how the parts of its rows belong together?

Letters: B rows of a batch, N query batches, L leaves of a batch. Source: a permutation test (Fisher
1935): where labels follow from nothing, it does not matter whose label a row has.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from nested.conformance.check import Evidence, Verdict
from nested.tasks.family import Task, TaskFamily

TASKS, STEPS, RATES, QUERIES = 3, 80, (0.003, 0.03, 0.3), 8
SURE = 4.0  # standard errors from which parts belong together
LEAST = 0.01  # by which the loss must tell rows from mixed ones, as a share of it


def probe_learned(family: TaskFamily, seed: int) -> Evidence:
    """Query losses (N,) before and after Adam at the best of some rates; and after it, losses
    (N, L) on the same batches when the rows of one leaf at a time are in another order."""
    tasks = [family.sample(_from(seed + t)) for t in range(TASKS)]
    best = {"after": torch.full((1,), math.inf)}
    for rate in RATES:
        found = [_losses(task, _trained(task, rate, seed), seed) for task in tasks]
        after = torch.cat([losses[:, 0] for losses in found])
        if after.mean() < best["after"].mean():
            best = {"after": after, "mixed": torch.cat([losses[:, 1:] for losses in found])}
    before = [_losses(task, task.init(_from(seed)), seed)[:, 0] for task in tasks]
    return {"before": torch.cat(before), **best}


def judge_learned(evidence: Evidence) -> Verdict:
    """Adam lowers the loss by a tenth, and then mixed rows have a larger loss than whole ones."""
    before, after = (evidence[name].mean().item() for name in ("before", "after"))
    measured = f"{STEPS} steps of Adam take the query loss from {before:.3g} to {after:.3g}"
    if not after < before - 0.1 * abs(before):
        hint = "do the targets follow from the inputs, and do train and query follow one law?"
        return Verdict(False, measured, hint)
    whole, mixed = evidence["after"][:, None], evidence["mixed"]  # (N, 1), (N, L)
    if not mixed.shape[1]:
        return Verdict(True, f"{measured}; a batch has no parts that could be mixed")
    share = 2 * (mixed - whole) / (mixed.abs() + whole.abs()).clamp(min=1e-12)  # from -2 to 2
    error = share.std(0).clamp(min=1e-12) / math.sqrt(len(share))
    best = (share.mean(0) / error).argmax()
    mean, sure = share.mean(0)[best].item(), (share.mean(0) / error)[best].item()
    measured += f"; with targets of other rows it is higher by {mean:.1%}, {sure:.1f} errors"
    hint = "any other row's target would do as well: do the targets follow from the inputs?"
    return Verdict(mean > LEAST and sure > SURE, measured, hint)


def _from(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _trained(task: Task, rate: float, seed: int) -> dict[str, Tensor]:
    generator = _from(seed)
    params = {n: p.detach().requires_grad_() for n, p in task.init(generator).items()}
    adam = torch.optim.Adam(params.values(), lr=rate)
    for _ in range(STEPS):
        adam.zero_grad()
        task.loss(params, task.batch(generator)).backward()
        adam.step()
    return params


@torch.no_grad()
def _losses(task: Task, params: dict[str, Tensor], seed: int) -> Tensor:
    """Losses (N, 1 + L) on query batches: as they are, and mixed in each way."""
    generator, rows = _from(seed), []
    for _ in range(QUERIES):
        batch = task.batch(generator, "query")
        rows.append([task.loss(params, b).double() for b in (batch, *_mixed(batch, seed))])
    return torch.tensor(rows, dtype=torch.float64)


def _mixed(batch: Any, seed: int) -> list[Any]:
    """The batch with the B rows of one of its tensors in another order, for each that shares its
    rows with another; of a single tensor, with each of its columns in an order of its own."""
    leaves, spec = tree_flatten(batch)
    sizes = [leaf.shape[:1] for leaf in leaves]
    shared = [i for i, size in enumerate(sizes) if size > (1,) and sizes.count(size) > 1]
    turned, generator = [], _from(seed)
    for place in shared:
        order = torch.randperm(len(leaves[place]), generator=generator)
        turned.append([*leaves[:place], leaves[place][order], *leaves[place + 1 :]])
    if len(leaves) == 1 and leaves[0].dim() > 1 and min(leaves[0].shape[:2]) > 1:
        orders = torch.rand(leaves[0].shape[:2], generator=generator).argsort(0)
        orders = orders.reshape(orders.shape + (1,) * (leaves[0].dim() - 2))
        turned.append([leaves[0].gather(0, orders.expand_as(leaves[0]))])
    return [tree_unflatten(parts, spec) for parts in turned]
