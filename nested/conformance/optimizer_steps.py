"""Check an optimizer's steps: they lower a loss, in place and repeatably, and can be resumed.

Source: the conventions of ``torch.optim``; see ``nested.conformance.optimizer``.
"""

from __future__ import annotations

import io

import torch

from nested.conformance.check import Check, Evidence, Verdict, judge_equal
from nested.conformance.small_net import (
    FIRES,
    STEPS,
    Make,
    SmallNet,
    difference,
    net_loss,
    train,
    trained,
    weights_of,
)

CUTS = range(1, 12)  # steps before saving: on and between the ticks of periods up to 10
DTYPES = {torch.float32: CUTS, torch.float64: [5], torch.bfloat16: [5]}


def _probe_learns(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    optimizer, before = make(list(net.parameters()), net), net_loss(net, 0).item()
    train(net, optimizer, [0] * 60)
    return {"before": before, "after": net_loss(net, 0).item()}


def _judge_learns(evidence: Evidence) -> Verdict:
    before, after = evidence["before"], evidence["after"]
    measured = f"60 steps on one batch: loss {before:.4f} -> {after:.4f}"
    return Verdict(after < before, measured, "does it move against the gradient, at a stable rate?")


def _probe_in_place(make: Make, seed: int) -> Evidence:
    net = SmallNet(seed)
    optimizer, before = make(list(net.parameters()), net), weights_of(net)
    net_loss(net, 0).backward()
    params = list(net.parameters())
    places = [p.data_ptr() for p in params]
    grads = [None if p.grad is None else p.grad.clone() for p in params]
    for _ in range(FIRES):
        optimizer.step()
    grads_kept = all(p.grad is g or torch.equal(p.grad, g) for p, g in zip(params, grads))
    wrong = {
        "replaces the weights' memory": places != [p.data_ptr() for p in params],
        "changes gradients": not grads_kept,
        "changes no weight": difference(weights_of(net), before) == 0,
        "leaves a graph": any(p.requires_grad is False or not p.is_leaf for p in params),
    }
    return {"wrong": [fault for fault, is_so in wrong.items() if is_so]}


def _judge_in_place(evidence: Evidence) -> Verdict:
    wrong = evidence["wrong"]
    measured = f"it {' and '.join(wrong)}" if wrong else "weights change in place"
    return Verdict(
        not wrong, measured, "use p.add_(...) under torch.no_grad(), and never write to p.grad"
    )


def _probe_repeats(make: Make, seed: int) -> Evidence:
    runs = []
    for other in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(other)  # global randomness must not matter
            runs.append(trained(make, seed))
    return {"ours": runs[0], "others": runs[1]}


def _probe_resume(make: Make, seed: int) -> Evidence:
    apart = {}
    for dtype, cuts in DTYPES.items():
        whole = SmallNet(seed, dtype)
        train(whole, make(_two_groups(whole), whole), range(STEPS))
        for saved_at in cuts:
            net = SmallNet(seed, dtype)
            optimizer = make(_two_groups(net), net)
            train(net, optimizer, range(saved_at))
            file = io.BytesIO()
            torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            again = SmallNet(seed + 1, dtype)
            again.load_state_dict(saved["net"])
            optimizer = make(_two_groups(again), again)
            optimizer.load_state_dict(saved["optimizer"])
            after = train(again, optimizer, range(saved_at, STEPS))
            apart[f"{saved_at} steps in {dtype}"] = difference(after, weights_of(whole))
    return apart


def _two_groups(net: SmallNet) -> list[dict[str, list[torch.nn.Parameter]]]:
    others, layers = [net.scale, net.unused], [*net.first.parameters(), *net.second.parameters()]
    return [{"params": layers}, {"params": others}]


def _judge_resume(evidence: Evidence) -> Verdict:
    wrong = [case for case, apart in evidence.items() if apart != 0]
    more = f", and in {len(wrong) - 1} other places" if len(wrong) > 1 else ""
    measured = f"a resumed run differs when saved after {wrong[0] if wrong else 'no steps'}{more}"
    hint = "keep everything that the next step needs in self.state or in the groups"
    return Verdict(not wrong, measured, hint)


def _probe_zeros(make: Make, seed: int) -> Evidence:
    runs, cleared = [], []
    for is_none in (True, False):
        net = SmallNet(seed)
        optimizer = make(list(net.parameters()), net)
        runs.append(train(net, optimizer, range(STEPS), set_to_none=is_none))
        optimizer.zero_grad(set_to_none=is_none)
        left = [p.grad for p in net.parameters() if p is not net.unused]
        cleared.append(all(g is None if is_none else g is not None and not g.any() for g in left))
    return {"ours": [*runs[1], torch.tensor(cleared)], "others": [*runs[0], torch.ones(2)]}


STEP_CHECKS = [
    Check("it lowers a loss", _probe_learns, _judge_learns),
    Check("it moves weights in place", _probe_in_place, _judge_in_place),
    Check(
        "the same every time",
        _probe_repeats,
        judge_equal("draw from a generator that the optimizer keeps and seeds", within=0),
    ),
    Check("a saved state continues the run bit for bit", _probe_resume, _judge_resume),
    Check(
        "zero_grad to None or to zeros",
        _probe_zeros,
        judge_equal("does a gradient of None start something again?", within=0),
    ),
]
