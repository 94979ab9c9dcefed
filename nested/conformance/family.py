"""Check a family of tasks against the contract of ``nested.TaskFamily``.

Letters: B rows of a batch, T tasks. Source: what ``meta_train`` and ``race`` rely on.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from nested.conformance.check import Check, Evidence, Result, Verdict, require, run_check
from nested.conformance.family_sides import SIDE_CHECKS
from nested.conformance.small_problem import detached_copy
from nested.tasks.family import SPLITS, Task, TaskFamily
from nested.tasks.stack import stack_batch, stack_init

TASKS, BATCHES = 6, 12  # drawn by each check
ADAM_TASKS, ADAM_STEPS, ADAM_LRS = 3, 80, (0.003, 0.03, 0.3)


def check_family(family: TaskFamily, seed: int = 0) -> list[Result]:
    """Check that ``family`` keeps the contract of a family of tasks, on draws from ``seed``.

    Returns the results of ``FAMILY_CHECKS``. Raises ``ConformanceError``, with one line for each
    check that failed.
    """
    results = [run_check(check, family, seed) for check in FAMILY_CHECKS]
    require(results, type(family).__name__)
    return results


def _from(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _drawn(family: TaskFamily, seed: int) -> dict[str, list[Tensor]]:
    """Draw a task's weights and batches, each part from the same seed."""
    task = family.sample(_from(seed))
    parts = {"weights": task.init(_from(seed))}
    parts |= {f"{split} batch": task.batch(_from(seed), split) for split in SPLITS}
    return {part: detached_copy(tree_leaves(tree)) for part, tree in parts.items()}


def _same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


# --- draws ---------------------------------------------------------------------------------------


def _probe_draws(family: TaskFamily, seed: int) -> Evidence:
    runs = []
    for other in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(other)  # global randomness must not matter
            runs.append(_drawn(family, seed))
    return {"first": runs[0], "again": runs[1], "another": _drawn(family, seed + 1)}


def _judge_draws(evidence: Evidence) -> Verdict:
    first, again, another = evidence["first"], evidence["again"], evidence["another"]
    loose = [part for part in first if not _same(first[part], again[part])]
    if loose:
        hint = "draw with generator=generator, and keep nothing between draws"
        return Verdict(False, f"two draws from one seed differ in {', '.join(loose)}", hint)
    stuck = [part for part in first if part != "weights" and _same(first[part], another[part])]
    hint = "does the draw use the generator?"
    measured = f"two seeds draw the same {', '.join(stuck)}" if stuck else "draws follow the seed"
    return Verdict(not stuck, measured, hint)


def _probe_forms(family: TaskFamily, seed: int) -> Evidence:
    sides = family, family.held_out()
    tasks = [side.sample(_from(seed + t)) for side in sides for t in range(TASKS)]
    return {
        "weights": sorted({_outline(task.init(_from(seed))) for task in tasks}),
        "batches": sorted({_outline(t.batch(_from(seed), "train")) for t in tasks}),
        "queries": sorted({_outline(t.batch(_from(seed), "query")) for t in tasks}),
    }


def _outline(tree: Any) -> str:
    leaves, spec = tree_flatten(tree)
    kinds = [
        f"{tuple(x.shape)} {x.dtype} {x.device}" if torch.is_tensor(x) else "no tensor"
        for x in leaves
    ]
    return f"{spec} {kinds}"


def _judge_forms(evidence: Evidence) -> Verdict:
    for part, outlines in evidence.items():
        if len(outlines) > 1:
            measured = f"the {part} of different tasks have different forms"
            return Verdict(False, measured, f"{outlines[0]} is not {outlines[1]}")
        if "no tensor" in outlines[0] or "[]" in outlines[0]:
            return Verdict(False, f"{part} are not tensors", "return tensors, in dicts or tuples")
    return Verdict(True, "all tasks have the same names, shapes and dtypes")


def _probe_alive(family: TaskFamily, seed: int) -> Evidence:
    task, generator = family.sample(_from(seed)), _from(seed)
    draws = [tree_leaves(task.batch(generator, split)) for split in SPLITS for _ in range(BATCHES)]
    numbers = torch.cat([leaf.double().flatten() for leaves in draws for leaf in leaves])
    return {
        "finite": numbers.isfinite().all().item(),
        "constant": (numbers == numbers[0]).all().item(),
        "repeated": all(_same(leaves, draws[0]) for leaves in draws[:BATCHES]),
    }


def _judge_alive(evidence: Evidence) -> Verdict:
    if not evidence["finite"]:
        return Verdict(
            False, "batches have values that are not finite", "find the 0/0 or the log(0)"
        )
    if evidence["constant"]:
        return Verdict(False, "all data are the same number", "is the batch ever filled?")
    hint = "each batch is a new draw; a task with one batch can be memorised"
    return Verdict(not evidence["repeated"], f"{BATCHES} train batches differ", hint)


# --- the loss ------------------------------------------------------------------------------------


def _probe_loss(family: TaskFamily, seed: int) -> Evidence:
    tasks = [family.sample(_from(seed + t)) for t in range(2)]
    params = {n: p.requires_grad_() for n, p in tasks[0].init(_from(seed)).items()}
    batch = tasks[0].batch(_from(seed))
    before = detached_copy([params, batch])
    losses = [task.loss(params, batch) for task in (*tasks, tasks[0])]
    grads = torch.autograd.grad(losses[0].sum(), list(params.values()), materialize_grads=True)
    return {
        "shape": list(losses[0].shape),
        "losses": detached_copy(losses),
        "slopes": {n: g.abs().max().item() for n, g in zip(params, grads, strict=True)},
        "changed": not _same(tree_leaves(before), tree_leaves(detached_copy([params, batch]))),
    }


def _judge_loss(evidence: Evidence) -> Verdict:
    if evidence["shape"]:
        return Verdict(False, f"the loss has shape {tuple(evidence['shape'])}", "take its mean")
    first, other, again = (loss.item() for loss in evidence["losses"])
    if not math.isfinite(first):
        return Verdict(False, f"the loss of fresh weights is {first}", "scale data or weights")
    if first != again or evidence["changed"]:
        return Verdict(
            False,
            "the loss changes its inputs, or differs from call to call",
            "write it as a pure function",
        )
    if first != other:
        measured = f"two tasks give one batch the losses {first:.4g} and {other:.4g}"
        return Verdict(False, measured, "put whatever differs between tasks into the batch")
    strange = [name for name, slope in evidence["slopes"].items() if not math.isfinite(slope)]
    if strange:
        measured = f"the gradients of {', '.join(strange)} are not finite"
        return Verdict(False, measured, "find a root, a logarithm or a division at 0")
    dead = [name for name, slope in evidence["slopes"].items() if not slope > 0]
    hint = "the loss should depend on every weight"
    measured = f"no gradient at {', '.join(dead)}" if dead else "one scalar, with gradients"
    return Verdict(len(dead) < len(evidence["slopes"]), measured, hint)


def _probe_batched(family: TaskFamily, seed: int) -> Evidence:
    tasks = [family.sample(_from(seed + t)) for t in range(TASKS)]
    params, batch = stack_init(tasks, _from(seed)), stack_batch(tasks, _from(seed))
    together = torch.vmap(tasks[0].loss)(params, batch)
    generators = _from(seed), _from(seed)
    weights = [task.init(generators[0]) for task in tasks]
    batches = [task.batch(generators[1]) for task in tasks]
    alone = [t.loss(p, b) for t, p, b in zip(tasks, weights, batches, strict=True)]
    return {"together": detached_copy(together), "alone": detached_copy(torch.stack(alone))}


def _judge_batched(evidence: Evidence) -> Verdict:
    together, alone = evidence["together"], evidence["alone"]
    apart = ((together - alone).abs() / alone.abs().clamp(min=1e-6)).max().item()
    measured = f"the losses of {TASKS} tasks together and alone differ by {apart:.1g}"
    return Verdict(apart < 1e-3, measured, "the loss may not branch on values or call .item()")


def _probe_learnable(family: TaskFamily, seed: int) -> Evidence:
    """Compute the mean query loss, before and after Adam at the best of three rates."""
    tasks = [family.sample(_from(seed + t)) for t in range(ADAM_TASKS)]
    after = [sum(_adam(task, lr, seed) for task in tasks) / ADAM_TASKS for lr in ADAM_LRS]
    before = sum(_query_loss(task, task.init(_from(seed)), seed) for task in tasks) / ADAM_TASKS
    return {"before": before, "after": min(after, key=lambda x: math.inf if math.isnan(x) else x)}


def _adam(task: Task, lr: float, seed: int) -> float:
    generator = _from(seed)
    params = {n: p.detach().requires_grad_() for n, p in task.init(generator).items()}
    adam = torch.optim.Adam(params.values(), lr=lr)
    for _ in range(ADAM_STEPS):
        adam.zero_grad()
        task.loss(params, task.batch(generator)).backward()
        adam.step()
    return _query_loss(task, params, seed)


def _query_loss(task: Task, params: dict[str, Tensor], seed: int) -> float:
    generator = _from(seed)
    losses = [task.loss(params, task.batch(generator, "query")) for _ in range(4)]
    return torch.stack(losses).mean().item()


def _judge_learnable(evidence: Evidence) -> Verdict:
    before, after = evidence["before"], evidence["after"]
    measured = f"{ADAM_STEPS} steps of Adam take the query loss from {before:.3g} to {after:.3g}"
    hint = "do targets depend on inputs, and are train and query from one distribution?"
    return Verdict(after < before - 0.1 * abs(before), measured, hint)


def _probe_splits(family: TaskFamily, seed: int) -> Evidence:
    task = family.sample(_from(seed))
    task.batch(_from(seed), "train")  # this is no error
    try:
        task.batch(_from(seed), "valid")
    except ValueError as error:
        return {"message": str(error)}
    return {"message": ""}


def _judge_splits(evidence: Evidence) -> Verdict:
    message = evidence["message"]
    measured = f"refused: {message}" if message else 'batch(generator, "valid") is not refused'
    return Verdict(bool(message), measured, 'raise ValueError for splits but "train" and "query"')


FAMILY_CHECKS = [
    Check("draws follow the seed and nothing else", _probe_draws, _judge_draws),
    Check("all tasks have one form", _probe_forms, _judge_forms),
    Check("data are alive", _probe_alive, _judge_alive),
    *SIDE_CHECKS,
    Check("all tasks share one scalar loss", _probe_loss, _judge_loss),
    Check("many tasks at once give the same losses", _probe_batched, _judge_batched),
    Check("an unknown split is refused", _probe_splits, _judge_splits),
    Check("it can be learned", _probe_learnable, _judge_learnable),
]
