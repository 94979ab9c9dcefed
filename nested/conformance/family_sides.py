"""Check that a family never mixes train and query data, nor trained and held-out tasks.

Letters: B rows of a batch, N rows in all, F numbers of a row. Source: what ``meta_train`` and
``race`` rely on. Nearest neighbours (Cover and Hart 1967) expose a copy with added noise.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.small_problem import detached_copy
from nested.tasks.family import SPLITS, Task, TaskFamily

TASKS, BATCHES = 6, 12  # drawn by each check
MANY, FEW = 24, 8  # of 24 draws of a task, more than 8 must differ
JITTER = 0.01  # of the usual distance of two rows; nearer rows are copies
CHANCE = 0.1  # share of the rows that may be as near by accident
NEAR = 1e-4  # relative; two tasks whose batches are nearer are the same


def _from(seed: int) -> Generator:
    return Generator().manual_seed(seed)


# --- train and query data ------------------------------------------------------------------------


def _probe_query(family: TaskFamily, seed: int) -> Evidence:
    """Draw train and query batches, from equal and from different seeds."""
    task = family.sample(_from(seed))
    rows = {}
    for split in SPLITS:
        batches = [task.batch(_from(seed + i), split) for i in range(BATCHES)]
        rows[split] = [detached_copy(tree_leaves(batch)) for batch in batches]
    return rows


def _judge_query(evidence: Evidence) -> Verdict:
    hint = 'batch(generator, "query") draws from data kept for it'
    train, query = ({key for b in evidence[s] for key in _rows(b)} for s in SPLITS)
    shared = len(train & query)
    measured = f"{shared} of {len(query)} query rows were in a train batch"
    if shared:
        return Verdict(False, measured, hint)
    near = _share_of_copies(*(_numbers(evidence[split]) for split in SPLITS))
    measured += f", and {near:.0%} are train rows with a little noise"
    return Verdict(near <= CHANCE, measured, hint)


def _rows(leaves: list[Tensor]) -> list[bytes]:
    """Turn each of a batch's B rows into bytes. Scalars are skipped; tensors without rows count as
    one."""
    leaves, count = _with_rows(leaves)
    if not count:
        return [b"".join(map(_bytes, leaves))]
    return [b"".join(_bytes(leaf[i]) for leaf in leaves) for i in range(count)]


def _with_rows(leaves: list[Tensor]) -> tuple[list[Tensor], int]:
    """Return the tensors that are not scalars (or all, if all are), and the number of rows or 0."""
    leaves = [leaf.cpu() for leaf in leaves if leaf.dim()] or [leaf.cpu() for leaf in leaves]
    counts = {leaf.shape[:1] for leaf in leaves}
    has_rows = len(counts) == 1 and counts != {torch.Size()}
    return leaves, len(leaves[0]) if has_rows else 0


def _bytes(leaf: Tensor) -> bytes:  # by way of uint8, because NumPy has no bfloat16
    return leaf.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _numbers(batches: list[list[Tensor]]) -> list[Tensor]:
    """Join the rows of many batches: one tensor (N, F) for each tensor of a batch."""
    parts = []
    for leaves in batches:
        leaves, count = _with_rows(leaves)
        parts.append([leaf.double().reshape(max(count, 1), -1) for leaf in leaves])
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _share_of_copies(train: list[Tensor], query: list[Tensor]) -> float:
    """Compute the share of query rows (N, F) that are copies of train rows: much nearer to one than
    train rows are to each other."""
    scales = [part.std().nan_to_num(1.0).clamp(min=1e-12) for part in train]
    ours, others = (
        torch.cat([part / scale for part, scale in zip(parts, scales, strict=True)], dim=1)
        for parts in (train, query)
    )
    among = torch.cdist(ours, ours, compute_mode="donot_use_mm_for_euclid_dist")
    among = torch.where(among > 0, among, torch.inf).min(1).values  # leave out repeated rows
    usual = among[among.isfinite()].median() if among.isfinite().any() else among.new_zeros(())
    apart = torch.cdist(others, ours, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    return (apart < JITTER * usual).double().mean().item()


# --- tasks of the two sides ----------------------------------------------------------------------


def _probe_sides(family: TaskFamily, seed: int) -> Evidence:
    sibling = family.held_out()
    sides = {"trained on": family, "held out": sibling, "held out twice": sibling.held_out()}
    counts = {name: MANY if name == "trained on" else TASKS for name in sides}
    return {
        name: [_three_batches(side.sample(_from(seed + t))) for t in range(counts[name])]
        for name, side in sides.items()
    }


def _three_batches(task: Task) -> list[Tensor]:
    """Draw from the same three seeds for all tasks: with one seed, two tasks could agree."""
    return [leaf for i in range(3) for leaf in detached_copy(tree_leaves(task.batch(_from(i))))]


def _judge_sides(evidence: Evidence) -> Verdict:
    ours, different = evidence["trained on"], []
    for batches in ours:
        if not any(_are_near(batches, other) for other in different):
            different.append(batches)
    if len(different) <= FEW:
        measured = f"{len(ours)} draws of a task give {len(different)} that differ"
        hint = "a family has many tasks, and their batches differ"
        return Verdict(False, measured, hint)
    for name in ("held out", "held out twice"):
        shared = any(_same(a, b) for a in evidence[name] for b in ours)
        near = sum(any(_are_near(a, b) for b in ours) for a in evidence[name])
        if shared or near > 1:
            measured = f"{near} of {TASKS} tasks that are {name} also come up in meta-training"
            return Verdict(False, measured, "held_out() returns a family that draws other tasks")
    return Verdict(True, "no held-out task comes up in meta-training")


def _same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _are_near(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Tell whether the tensors (...) of two tasks agree, except for a little noise."""
    pairs = [(a.double(), b.double()) for a, b in zip(ours, theirs)]
    alike = len(ours) == len(theirs) and all(a.shape == b.shape for a, b in pairs)
    return alike and all(bool((a - b).norm() <= NEAR * a.norm()) for a, b in pairs)


SIDE_CHECKS = [
    Check("query data are never train data", _probe_query, _judge_query),
    Check("held-out tasks are never trained on", _probe_sides, _judge_sides),
]
