"""The conventions of ``torch.optim``, as checks that any optimizer can be put through.

An optimizer is looked at through ``make(params, module) -> Optimizer``, which makes a fresh one
with settings of its own choice for ``params``: parameters, or groups {"params": ...}, of
``module``. Source: the documentation of ``torch.optim``, and what its own classes
do.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nested.conformance.check import (
    Check,
    Evidence,
    Result,
    Verdict,
    judge_equal,
    largest,
    require,
    run_check,
)
from nested.conformance.small_net import (
    OddNet,
    SmallNet,
    difference,
    net_loss,
    train,
    weights_of,
)

Make = Callable[[Any, nn.Module], Optimizer]
STEPS = 14  # of a run that is cut
CUTS = range(1, 12)  # where: off and on every clock of a period up to 10
PARTS = ("first", "second")  # of the net, in groups of their own


def check_optimizer(make: Make, seed: int = 0) -> list[Result]:
    """Check that what ``make(params, module)`` returns keeps the conventions of ``torch.optim``, on
    small nets drawn from ``seed``.

    Returns the results of ``OPTIMIZER_CHECKS``; raises ``ConformanceError``, with one line for each
    check that failed, if any did.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an optimizer may say what it leaves to plain descent
        results = [run_check(check, make, seed) for check in OPTIMIZER_CHECKS]
        net = SmallNet(seed)
        require(results, type(make(list(net.parameters()), net)).__name__)
    return results


def _trained(
    make: Make, seed: int, steps: Sequence[int] = range(STEPS), **how: Any
) -> list[Tensor]:
    net = SmallNet(seed)
    return train(net, make(list(net.parameters()), net), steps, **how)


def _probe_learns(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    optimizer, before = make(list(net.parameters()), net), net_loss(net, 0).item()
    train(net, optimizer, [0] * 60)
    return {"before": before, "after": net_loss(net, 0).item()}


def _judge_learns(evidence: Evidence) -> Verdict:
    before, after = evidence["before"], evidence["after"]
    measured = f"60 steps on one batch: loss {before:.4f} -> {after:.4f}"
    return Verdict(after < before, measured, "does it go against the gradient, at a stable rate?")


def _probe_in_place(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    optimizer, before = make(list(net.parameters()), net), weights_of(net)
    net_loss(net, 0).backward()
    params = list(net.parameters())
    places = [p.data_ptr() for p in params]
    grads = [None if p.grad is None else p.grad.clone() for p in params]
    for _ in range(3):
        optimizer.step()
    grads_kept = all(p.grad is g or torch.equal(p.grad, g) for p, g in zip(params, grads))
    wrong = {
        "moves weights to other places": places != [p.data_ptr() for p in params],
        "changes gradients": not grads_kept,
        "moves nothing": difference(weights_of(net)[:-1], before[:-1]) == 0,
        "leaves a graph": any(p.requires_grad is False or not p.is_leaf for p in params),
    }
    return {"wrong": [what for what, is_so in wrong.items() if is_so]}


def _judge_in_place(evidence: Evidence) -> Verdict:
    wrong = evidence["wrong"]
    measured = f"it {' and '.join(wrong)}" if wrong else "weights move in place"
    return Verdict(not wrong, measured, "p.add_(...) under torch.no_grad(); leave p.grad alone")


def _probe_repeats(make: Make, seed: int) -> Evidence:
    runs = []
    for other in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(other)  # global randomness must not matter
            runs.append(_trained(make, seed))
    return {"ours": runs[0], "others": runs[1]}


def _probe_resume(make: Make, seed: int) -> Evidence:
    whole, apart = _trained(make, seed), {}
    for cut in CUTS:
        net = SmallNet(seed)
        optimizer = make(list(net.parameters()), net)
        train(net, optimizer, range(cut))
        file = io.BytesIO()
        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        again = SmallNet(seed + 1)
        again.load_state_dict(saved["net"])
        optimizer = make(list(again.parameters()), again)
        optimizer.load_state_dict(saved["optimizer"])
        apart[cut] = difference(train(again, optimizer, range(cut, STEPS)), whole)
    return apart


def _judge_resume(evidence: Evidence) -> Verdict:
    wrong = [str(cut) for cut, apart in evidence.items() if apart != 0]
    measured = f"saved, loaded and gone on, another run after {', '.join(wrong) or 'no'} steps"
    hint = "all that the next step needs belongs in self.state or in the groups, counters too"
    return Verdict(not wrong, measured, hint)


def _probe_groups(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    still, moving = [*net.first.parameters()], [*net.second.parameters(), net.scale, net.unused]
    optimizer, before = make([{"params": moving}, {"params": still, "lr": 0.0}], net), weights_of(
        net
    )
    after = train(net, optimizer, range(STEPS))
    change = {
        n: difference([a], [b]) for (n, _), a, b in zip(net.named_parameters(), after, before)
    }
    return {part: [change[f"{part}.{kind}"] for kind in ("weight", "bias")] for part in PARTS}


def _judge_groups(evidence: Evidence) -> Verdict:
    still, moved = largest(evidence["first"]), min(evidence["second"])
    measured = f"a group with lr = 0 moved by {still:.2g}, the other by {moved:.2g}"
    return Verdict(still == 0 < moved, measured, "take settings from the group, not from self")


def _probe_missing(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    before = net.unused.detach().clone()
    train(net, make(list(net.parameters()), net), range(STEPS))
    return {"ours": [net.unused.detach()], "others": [before]}


def _probe_dtypes(make: Make, seed: int) -> Evidence:
    found = {}
    for dtype in (torch.float64, torch.bfloat16):
        net = SmallNet(seed, dtype)
        before = weights_of(net)
        after = train(net, make(list(net.parameters()), net), range(STEPS))
        is_kept = all(p.dtype == dtype and p.isfinite().all() for p in after)
        found[str(dtype)] = is_kept and difference(after[:-1], before[:-1]) > 0
    return found


def _judge_dtypes(evidence: Evidence) -> Verdict:
    wrong = [dtype for dtype, is_fine in evidence.items() if not is_fine]
    measured = f"weights of {' and '.join(wrong) or 'no dtype'} are still, change dtype or overflow"
    return Verdict(not wrong, measured, "keep state in the weight's dtype, or cast on the way")


def _probe_shapes(make: Make, seed: int) -> Evidence:
    runs = []
    for is_contiguous in (False, True):
        net = OddNet(seed, is_contiguous)
        runs.append(train(net, make(list(net.parameters()), net), range(STEPS)))
    moved = difference(runs[0], weights_of(OddNet(seed, True)))
    return {"ours": [*runs[0], torch.tensor(moved > 0)], "others": [*runs[1], torch.tensor(True)]}


def _probe_zeros(make: Make, seed: int) -> Evidence:
    runs = [_trained(make, seed, set_to_none=is_none) for is_none in (True, False)]
    return {"ours": runs[1], "others": runs[0]}


def _probe_scheduler(make: Make, seed: int) -> Evidence:
    runs = []
    for is_scheduled in (True, False):
        net = SmallNet(seed)
        optimizer = make(list(net.parameters()), net)
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3) if is_scheduled else None
        for k in range(9):
            train(net, optimizer, [k])
            if scheduler:
                scheduler.step()
                continue
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * 0.1 ** ((k + 1) // 3)
        runs.append(weights_of(net))
    changed = difference(runs[0], _trained(make, seed, range(9))) > 0
    return {"ours": [*runs[0], torch.tensor(changed)], "others": [*runs[1], torch.tensor(True)]}


def _probe_closure(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    optimizer, returned, losses = make(list(net.parameters()), net), [], []
    for k in range(STEPS):

        def closure() -> Tensor:
            optimizer.zero_grad()
            losses.append(net_loss(net, k))
            losses[-1].backward()
            return losses[-1]

        returned.append(optimizer.step(closure))
    same = [a is b for a, b in zip(returned, losses)] == [True] * STEPS
    return {
        "ours": [*weights_of(net), torch.tensor(same)],
        "others": [*_trained(make, seed), torch.tensor(True)],
    }


def _probe_maximize(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    try:
        optimizer = make([{"params": list(net.parameters()), "maximize": True}], net)
    except (TypeError, ValueError) as error:
        return {"refused": str(error)}
    up = train(net, optimizer, range(3))  # further up it would run away
    return {"apart": difference(up, _trained(make, seed, range(3), sign=-1.0))}


def _judge_maximize(evidence: Evidence) -> Verdict:
    if "refused" in evidence:
        return Verdict(True, f"refused: {evidence['refused']}")
    apart = evidence["apart"]
    measured = f"maximize=True differs by {apart:.2g} from minimising the negative"
    return Verdict(apart < 1e-6, measured, "honour it, or raise ValueError in add_param_group")


OPTIMIZER_CHECKS = [
    Check("it lowers a loss", _probe_learns, _judge_learns),
    Check("it moves weights in place", _probe_in_place, _judge_in_place),
    Check(
        "the same every time",
        _probe_repeats,
        judge_equal("draw from a generator of your own, seeded at the start", within=0),
    ),
    Check("a saved state continues the run bit for bit", _probe_resume, _judge_resume),
    Check("groups keep their own settings", _probe_groups, _judge_groups),
    Check(
        "a weight without a gradient stays",
        _probe_missing,
        judge_equal("skip parameters whose .grad is None", within=0),
    ),
    Check("float64 and bfloat16", _probe_dtypes, _judge_dtypes),
    Check(
        "non-contiguous and empty weights",
        _probe_shapes,
        judge_equal("reshape, not view; nothing may divide by the number of elements", within=1e-6),
    ),
    Check(
        "zero_grad to None or to zeros",
        _probe_zeros,
        judge_equal("is a gradient of None taken for the start of something?", within=0),
    ),
    Check(
        "a scheduler's rate reaches it",
        _probe_scheduler,
        judge_equal("read group['lr'] anew at each step", within=1e-6),
    ),
    Check(
        "a closure is called and its loss returned",
        _probe_closure,
        judge_equal("with torch.enable_grad(): loss = closure(), once; return it", within=0),
    ),
    Check("maximize is refused or honoured", _probe_maximize, _judge_maximize),
]
