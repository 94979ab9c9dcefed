"""Check an optimizer against the conventions of ``torch.optim``.

The checks call ``make(params, module) -> Optimizer``, which makes a fresh optimizer. ``params`` are
parameters of ``module``, or groups {"params": ...}. ``make`` chooses the settings.
Source: the documentation of ``torch.optim``, and the behaviour of its classes.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

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
from nested.conformance.optimizer_steps import STEP_CHECKS
from nested.conformance.small_net import (
    FIRES,
    STEPS,
    Make,
    OddNet,
    SmallNet,
    difference,
    net_loss,
    train,
    trained,
    weights_of,
)

HEEDED = {"momentum", "betas", "weight_decay"}  # settings that change every run
PARTS = ("first", "second")  # of the net, each in one group


def check_optimizer(make: Make, seed: int = 0) -> list[Result]:
    """Check that optimizers of ``make(params, module)`` keep the conventions of ``torch.optim``.

    ``seed`` draws the small nets. Returns the results of ``OPTIMIZER_CHECKS``. Raises
    ``ConformanceError``, with one line for each check that failed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an optimizer may warn of weights that it cannot treat
        results = [run_check(check, make, seed) for check in OPTIMIZER_CHECKS]
        require(results, _name(make, seed))
    return results


def _name(make: Make, seed: int) -> str:
    net = SmallNet(seed)
    try:
        return type(make(list(net.parameters()), net)).__name__
    except Exception:  # every check has reported it already
        return getattr(make, "__name__", "the optimizer")


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
    still, change = largest(evidence["first"]), min(evidence["second"])
    measured = f"a group with lr = 0 changed by {still:.2g}, the other by {change:.2g}"
    return Verdict(still == 0 < change, measured, "take settings from the group, not from self")


def _probe_missing(make: Make, seed: int) -> Evidence:
    """Train with a weight that never has a gradient, and one that later loses its gradient."""
    net = SmallNet(seed)
    before = net.unused.detach().clone()
    optimizer = make(list(net.parameters()), net)
    train(net, optimizer, range(5))
    for k in range(5, 5 + 2 * FIRES):
        optimizer.zero_grad()
        net_loss(net, k).backward()
        net.scale.grad = None
        optimizer.step()
        if k == 4 + FIRES:  # every clock has used the earlier gradients by now
            after = net.scale.detach().clone()
    return {"ours": [net.unused.detach(), net.scale.detach()], "others": [before, after]}


def _probe_settings(make: Make, seed: int) -> Evidence:
    """Measure how much each setting of ``HEEDED`` changes a run when a group sets it."""
    results, plain = {}, trained(make, seed)
    net = SmallNet(seed)
    defaults = make(list(net.parameters()), net).defaults
    for name in HEEDED & defaults.keys():
        value = defaults[name]
        other = [beta / 2 for beta in value] if name == "betas" else value / 2 + 0.1
        net = SmallNet(seed)
        groups = [{"params": list(net.parameters()), name: other}]
        results[name] = difference(train(net, make(groups, net), range(STEPS)), plain)
    return results


def _judge_settings(evidence: Evidence) -> Verdict:
    unheard = sorted(name for name, apart in evidence.items() if apart == 0)
    measured = f"{' and '.join(unheard) or 'settings'} of a group"
    measured += " change nothing" if unheard else " are used"
    return Verdict(not unheard, measured, "take settings from the group, not from self")


def _probe_added(make: Make, seed: int) -> Evidence:
    """Add a group after a few steps, and one more with a rate of 0."""
    net = SmallNet(seed)
    optimizer = make(list(net.first.parameters()), net)
    train(net, optimizer, range(3))
    optimizer.add_param_group({"params": list(net.second.parameters())})
    optimizer.add_param_group({"params": [net.scale], "lr": 0.0})
    before = weights_of(net)
    after = train(net, optimizer, range(3, 6))
    names = [name for name, _ in net.named_parameters()]
    change = {n: difference([a], [b]) for n, a, b in zip(names, after, before)}
    return {"added": change["second.weight"], "still": change["scale"]}


def _judge_added(evidence: Evidence) -> Verdict:
    added, still = evidence["added"], evidence["still"]
    measured = f"a group added later changed by {added:.2g}, another with lr = 0 by {still:.2g}"
    return Verdict(added > 0 == still, measured, "go through self.param_groups at each step")


def _probe_dtypes(make: Make, seed: int) -> Evidence:
    results = {}
    for dtype in (torch.float64, torch.bfloat16):
        net = SmallNet(seed, dtype)
        before = weights_of(net)
        after = train(net, make(list(net.parameters()), net), range(STEPS))
        is_kept = all(p.dtype == dtype and p.isfinite().all() for p in after)
        results[str(dtype)] = is_kept and difference(after, before) > 0
    return results


def _judge_dtypes(evidence: Evidence) -> Verdict:
    wrong = [dtype for dtype, is_fine in evidence.items() if not is_fine]
    measured = f"weights in {' and '.join(wrong) or 'no dtype'} stay, change dtype or overflow"
    return Verdict(not wrong, measured, "keep the state in the weight's dtype, or cast it")


def _probe_shapes(make: Make, seed: int) -> Evidence:
    runs = []
    for is_contiguous in (False, True):
        net = OddNet(seed, is_contiguous)
        runs.append(train(net, make(list(net.parameters()), net), range(STEPS)))
    change = difference(runs[0], weights_of(OddNet(seed, True)))
    return {"ours": [*runs[0], torch.tensor(change > 0)], "others": [*runs[1], torch.tensor(True)]}


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
    changed = difference(runs[0], trained(make, seed, range(9))) > 0
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
        "others": [*trained(make, seed), torch.tensor(True)],
    }


def _probe_maximize(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    try:
        optimizer = make([{"params": list(net.parameters()), "maximize": True}], net)
    except (TypeError, ValueError) as error:
        return {"refused": str(error)}
    up = train(net, optimizer, range(3))  # more steps would diverge
    return {"apart": difference(up, trained(make, seed, range(3), sign=-1.0))}


def _judge_maximize(evidence: Evidence) -> Verdict:
    if "refused" in evidence:
        return Verdict(True, f"refused: {evidence['refused']}")
    apart = evidence["apart"]
    measured = f"maximize=True differs by {apart:.2g} from minimising the negative"
    return Verdict(apart < 1e-6, measured, "use it, or raise ValueError in add_param_group")


OPTIMIZER_CHECKS = [
    *STEP_CHECKS,
    Check("groups keep their own rate", _probe_groups, _judge_groups),
    Check("groups keep their own settings", _probe_settings, _judge_settings),
    Check(
        "a weight without a gradient stays",
        _probe_missing,
        judge_equal("skip parameters whose .grad is None", within=0),
    ),
    Check("a group can be added later", _probe_added, _judge_added),
    Check("float64 and bfloat16", _probe_dtypes, _judge_dtypes),
    Check(
        "non-contiguous and empty weights",
        _probe_shapes,
        judge_equal(
            "use reshape, not view, and never divide by the number of elements", within=1e-6
        ),
    ),
    Check(
        "a scheduler's rate reaches it",
        _probe_scheduler,
        judge_equal("read group['lr'] again at each step", within=1e-6),
    ),
    Check(
        "a closure is called and its loss returned",
        _probe_closure,
        judge_equal(
            "call it once, with torch.enable_grad(): loss = closure(), and return the loss",
            within=0,
        ),
    ),
    Check("maximize is refused or honoured", _probe_maximize, _judge_maximize),
]
