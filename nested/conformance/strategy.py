"""Check a strategy of continual learning: does it learn, resume, and count what it stores?

The checks call ``make(net, budget, seed) -> strategy``, which makes a fresh strategy for a net of 8
features and 4 classes. ``make`` chooses the settings.
Letters: B examples of a batch, C classes. Source: the contract of ``nested.continual.Strategy``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_leaves

from nested.conformance.check import (
    Check,
    Evidence,
    Result,
    Verdict,
    judge_equal,
    require,
    run_check,
)

FEATURES, CLASSES, BATCH, BUDGET = 8, 4, 10, 2000
Make = Callable[[nn.Module, int, int], Any]


def check_strategy(make: Make, seed: int = 0) -> list[Result]:
    """Check that strategies of ``make(net, budget, seed)`` keep the contract of ``Strategy``.

    ``seed`` draws nets and batches. Returns the results of ``STRATEGY_CHECKS``. Raises
    ``ConformanceError``, with one line for each check that failed.
    """
    results = [run_check(check, make, seed) for check in STRATEGY_CHECKS]
    require(results, getattr(make, "__name__", "the strategy"))
    return results


def strategy_net(seed: int) -> nn.Module:
    """Build the net of the checks: 8 features, 4 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU())
        return nn.Sequential(body, nn.Linear(16, CLASSES))


def _batches(seed: int, task: int, count: int, size: int = BATCH) -> list[tuple[Tensor, Tensor]]:
    """Batches of two classes around their own centres."""
    source, batches = Generator().manual_seed(1000 * seed + task), []
    for _ in range(count):
        y = 2 * task + torch.randint(2, (size,), generator=source)
        x = 2.0 * torch.eye(CLASSES, FEATURES)[y] + 0.3 * torch.randn(
            size, FEATURES, generator=source
        )
        batches.append((x, y))
    return batches


def _taught(make: Make, seed: int, task: int | None = None, ends: int = 2) -> Any:
    """A strategy after two tasks, of which ``ends`` have ended. With a number as ``task`` it knows
    the tasks."""
    strategy = make(strategy_net(seed), BUDGET, seed)
    for number in range(2):
        for x, y in _batches(seed, number, 20):
            strategy.observe(x, y, None if task is None else number)
        if number < ends:
            strategy.end_task(number)
    return strategy


def _answers(strategy: Any, seed: int, task: int | None = None) -> Tensor:
    (x, _), *_ = _batches(seed, 0, 1)
    return strategy.logits(x, task)


def _probe_learns(make: Make, seed: int) -> Evidence:
    strategy = make(strategy_net(seed), BUDGET, seed)
    for x, y in _batches(seed, 0, 60):
        strategy.observe(x, y)
    strategy.end_task(0)
    ((x, y),) = _batches(seed + 1, 0, 1, 200)
    return {"share": (strategy.logits(x).argmax(-1) == y).double().mean().item()}


def _judge_learns(evidence: Evidence) -> Verdict:
    share = evidence["share"]
    return Verdict(share > 0.9, f"it gets {share:.2f} of an easy task right", "move the weights")


def _probe_logits(make: Make, seed: int) -> Evidence:
    strategy = _taught(make, seed)
    before = copy.deepcopy(strategy.state_dict())
    first, second = _answers(strategy, seed), _answers(strategy, seed)
    leaves = [leaf for leaf in tree_leaves(before) if isinstance(leaf, Tensor)]
    after = [leaf for leaf in tree_leaves(strategy.state_dict()) if isinstance(leaf, Tensor)]
    shape = torch.tensor([*first.shape, first.requires_grad])
    wanted = torch.tensor([BATCH, CLASSES, False])
    return {"ours": [first, shape, *after], "others": [second, wanted, *leaves]}


def _probe_single(make: Make, seed: int) -> Evidence:
    strategy = make(strategy_net(seed), BUDGET, seed)
    strategy.end_task(0)
    for x, y in (*_batches(seed, 0, 3), *_batches(seed, 0, 2, 1), *_batches(seed, 1, 1, 3)):
        strategy.observe(x, y)
    strategy.end_task(0)
    return {"finite": bool(_answers(strategy, seed).isfinite().all())}


def _judge_finite(evidence: Evidence) -> Verdict:
    hint = "a task can have no batch, and a last batch one example"
    return Verdict(evidence["finite"], f"answers are finite: {evidence['finite']}", hint)


def _probe_resumed(make: Make, seed: int) -> Evidence:
    """Save between two batches of the second task, load, and go on with both."""
    strategy = make(strategy_net(seed), BUDGET, seed)
    batches = _batches(seed, 0, 12), _batches(seed, 1, 12)
    for x, y in batches[0]:
        strategy.observe(x, y)
    strategy.end_task(0)
    for x, y in batches[1][:6]:
        strategy.observe(x, y)
    saved = strategy.state_dict()
    results = []
    for x, y in batches[1][6:]:
        strategy.observe(x, y)
    strategy.end_task(1)
    results.append(_answers(strategy, seed))
    other = make(strategy_net(seed + 7), BUDGET, seed + 7)
    other.load_state_dict(saved)
    for x, y in batches[1][6:]:
        other.observe(x, y)
    other.end_task(1)
    return {"ours": [_answers(other, seed)], "others": results}


def _probe_seeds(make: Make, seed: int) -> Evidence:
    torch.manual_seed(1)
    first = _answers(_taught(make, seed), seed)
    torch.manual_seed(2)
    return {"ours": [first], "others": [_answers(_taught(make, seed), seed)]}


def _probe_inputs(make: Make, seed: int) -> Evidence:
    """Give a batch, and change it afterwards, as a loader does that reuses its memory."""
    results = []
    for is_reused in (False, True):
        strategy = make(strategy_net(seed), BUDGET, seed)
        for number in range(2):
            for x, y in _batches(seed, number, 20):
                given = x.clone(), y.clone()
                strategy.observe(*given)
                if not is_reused:
                    results += [given[0] - x, (given[1] - y).double()]
                else:
                    given[0].zero_(), given[1].zero_()
            strategy.end_task(number)
        results.append(_answers(strategy, seed))
    *changes, kept, reused = results
    return {
        "ours": [*changes, reused],
        "others": [*(torch.zeros_like(part) for part in changes), kept],
    }


def _probe_numbers(make: Make, seed: int) -> Evidence:
    """Compare what it says with what its state holds beyond the weights of the net, and with its
    budget, before the end of the second task and after it."""
    strategy = _taught(make, seed, ends=1)
    counts = []
    for is_over in (False, True):
        if is_over:
            strategy.end_task(1)
        leaves = tree_leaves(strategy.state_dict())
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
        kept = sum(leaf.numel() for leaf in tensors if not _is_generator_state(leaf))
        kept -= sum(weight.numel() for weight in strategy_net(seed).state_dict().values())
        counts.append((strategy.numbers_stored(), kept))
    return {"counts": counts}


def _is_generator_state(leaf: Tensor) -> bool:
    return leaf.dtype == torch.uint8 and leaf.shape == Generator().get_state().shape


def _judge_numbers(evidence: Evidence) -> Verdict:
    hint = "count examples with their labels, logits, and copies of weights alike"
    for counted, kept in evidence["counts"]:
        measured = f"numbers_stored() is {counted}, and its state holds {kept}"
        if type(counted) is not int or counted < max(0, kept):
            return Verdict(False, measured, hint)
    return Verdict(True, measured)


def _judge_budget(evidence: Evidence) -> Verdict:
    most = max(max(counts) for counts in evidence["counts"])
    measured = f"it may store {BUDGET} numbers, and stores {most}"
    return Verdict(most <= BUDGET, measured, "store fewer examples, or fewer copies of weights")


def _probe_tasks(make: Make, seed: int) -> Evidence:
    """Ask in the first task about examples of the second."""
    strategy = _taught(make, seed, task=0)
    (x, _), *_ = _batches(seed, 1, 1)
    return {"classes": sorted({*strategy.logits(x, 0).argmax(-1).tolist()})}


def _judge_tasks(evidence: Evidence) -> Verdict:
    classes = evidence["classes"]
    measured = f"asked in task 0 of the classes 0 and 1, it answers {classes}"
    return Verdict({*classes} <= {0, 1}, measured, "give logits of other tasks -inf")


def _probe_refusals(make: Make, seed: int) -> Evidence:
    (x, y), *_ = _batches(seed, 0, 1)
    nan = x.clone()
    nan[0, 0] = torch.nan
    accepted = []
    for name, batch in {"NaN": (nan, y), "labels": (x, y[:-1]), "nothing": (x[:0], y[:0])}.items():
        try:
            make(strategy_net(seed), BUDGET, seed).observe(*batch)
            accepted.append(name)
        except ValueError:
            pass
    return {"accepted": accepted}


def _judge_refusals(evidence: Evidence) -> Verdict:
    accepted = evidence["accepted"]
    measured = f"batches with {' and '.join(accepted) or 'no fault'} are accepted"
    return Verdict(
        not accepted, measured, "raise ValueError: nested.continual.strategy.check_batch"
    )


STRATEGY_CHECKS = [
    Check("it learns an easy task", _probe_learns, _judge_learns),
    Check(
        "answering changes nothing",
        _probe_logits,
        judge_equal("logits (B, C) without a graph, and no moves", within=0),
    ),
    Check("tasks and batches of any size", _probe_single, _judge_finite),
    Check(
        "it resumes bit for bit",
        _probe_resumed,
        judge_equal("save all that later batches depend on, and copies of it", within=0),
    ),
    Check(
        "its seed decides everything",
        _probe_seeds,
        judge_equal("draw from a Generator of your own", within=0),
    ),
    Check(
        "it keeps copies of examples",
        _probe_inputs,
        judge_equal("do not change a batch, and clone what you store", within=0),
    ),
    Check("it counts what it stores", _probe_numbers, _judge_numbers),
    Check("it keeps to its budget", _probe_numbers, _judge_budget),
    Check("a known task masks other classes", _probe_tasks, _judge_tasks),
    Check("it refuses broken batches", _probe_refusals, _judge_refusals),
]
