"""Check that a family can be learned, and that its targets depend on its inputs.

If targets are random, permuting them over the rows does not change the loss. Letters: B rows of a
batch, N query batches, L leaves of a batch. Source: the permutation test (Fisher 1935).
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
SURE = 4.0  # standard errors that the difference must have
LEAST = 0.01  # least difference of the loss on permuted rows, as a share of the loss


def probe_learned(family: TaskFamily, seed: int) -> Evidence:
    """Compute query losses (N,) before and after Adam, at the best of ``RATES``.

    Also compute losses (N, L) on the same batches, with the rows of one leaf permuted at a time."""
    tasks = [family.sample(_from(seed + t)) for t in range(TASKS)]
    best = {"after": torch.full((1,), math.inf)}
    for rate in RATES:
        runs = [_losses(task, _trained(task, rate, seed), seed) for task in tasks]
        after = torch.cat([losses[:, 0] for losses in runs])
        if after.mean() < best["after"].mean():
            best = {"after": after, "mixed": torch.cat([losses[:, 1:] for losses in runs])}
    before = [_losses(task, task.init(_from(seed)), seed)[:, 0] for task in tasks]
    return {"before": torch.cat(before), **best}


def judge_learned(evidence: Evidence) -> Verdict:
    """Judge whether Adam lowers the loss by a tenth, and permuted rows then have a larger loss."""
    before, after = (evidence[name].mean().item() for name in ("before", "after"))
    measured = f"{STEPS} steps of Adam take the query loss from {before:.3g} to {after:.3g}"
    if not after < before - 0.1 * abs(before):
        hint = "do targets depend on inputs, and are train and query from one distribution?"
        return Verdict(False, measured, hint)
    whole, mixed = evidence["after"][:, None], evidence["mixed"]  # (N, 1), (N, L)
    if not mixed.shape[1]:
        return Verdict(True, f"{measured}; a batch has no parts to permute")
    share = 2 * (mixed - whole) / (mixed.abs() + whole.abs()).clamp(min=1e-12)  # from -2 to 2
    error = share.std(0).clamp(min=1e-12) / math.sqrt(len(share))
    best = (share.mean(0) / error).argmax()
    mean, sure = share.mean(0)[best].item(), (share.mean(0) / error)[best].item()
    measured += f"; with targets of other rows it is higher by {mean:.1%}, {sure:.1f} errors"
    hint = "permuted targets give the same loss: do the targets depend on the inputs?"
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
    """Compute losses (N, 1 + L) on query batches, as drawn and with each permutation."""
    generator, rows = _from(seed), []
    for _ in range(QUERIES):
        batch = task.batch(generator, "query")
        rows.append([task.loss(params, b).double() for b in (batch, *_mixed(batch, seed))])
    return torch.tensor(rows, dtype=torch.float64)


def _mixed(batch: Any, seed: int) -> list[Any]:
    """Permute the B rows of one tensor at a time, for each that shares its rows with another.

    For a batch of a single tensor, permute each column separately."""
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
