"""How many examples of each task come in which task, when tasks run into each other.

Letters: T tasks. Source: a linear system: shares of each task on one side, examples on the other.
"""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor


def check_shares(**shares: float) -> None:
    """Raise ``ValueError`` unless all are numbers from 0 and their sum is under 1."""
    for name, share in shares.items():
        if not isinstance(share, Real) or not 0 <= share < 1:
            raise ValueError(f"{name} is a share from 0 to below 1, but got {share!r}")
    if sum(shares.values()) >= 1:
        listed = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"the shares of a stream add up to less than 1, but got {listed}")


def composition(sizes: Tensor, blur: float, interference: float) -> list[list[int]]:
    """Compute how many examples of task s come in task t: the number [t][s].

    Task s has ``sizes[s]`` examples, with sizes (T,), and all of them come once. Of the examples of
    task t a share ``blur`` belongs to task t + 1. A share ``interference`` belongs to the tasks
    before it, to each alike. Raises ``ValueError`` if that would leave a task without examples of
    its own."""
    tasks = len(sizes)
    shares = torch.zeros(tasks, tasks, dtype=torch.float64)  # of task t (rows) from task s
    for t in range(tasks):
        if t + 1 < tasks:
            shares[t, t + 1] = blur
        shares[t, :t] = interference / max(1, t)
        shares[t, t] = 1 - shares[t].sum()
    # all examples of s come somewhere: sum over t of total_t shares_ts = sizes_s
    totals = torch.linalg.solve(shares.T, sizes.double())
    counts = (totals[:, None] * shares).round().long()
    for s in range(tasks):
        counts[s, s] += sizes[s] - counts[:, s].sum()  # what rounding has lost
    if (totals <= 0).any() or (counts.diagonal() < 1).any():
        raise ValueError(
            f"blur {blur:g} and interference {interference:g} leave a task without examples of its"
            f" own: tasks have {', '.join(map(str, sizes.tolist()))} examples"
        )
    return counts.tolist()
