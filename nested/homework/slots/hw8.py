"""Slot hw8: a memory of examples that keeps equally many of each class.

Letters: B examples of a batch, C classes, N examples of a stream, S slots.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_leaves

from nested.conformance.check import Check, Evidence, Verdict
from nested.conformance.strategy import STRATEGY_CHECKS, strategy_net
from nested.continual.strategy import Strategy
from nested.homework.sandbox import Sandbox
from nested.homework.serve import Served
from nested.homework.slots.slot import Slot

SLOTS, RUNS = 12, 400  # slots of a memory, and streams of the check of chances
COUNTS = (30, 5, 60, 3, 12)  # examples of each class
LIKELY = 4.5  # standard deviations from the expected share


class RemoteStrategy:
    """A proxy of a student's strategy, which has a ``number`` there."""

    def __init__(self, sandbox: Sandbox, net: nn.Module, budget: int, seed: int) -> None:
        self._sandbox = sandbox
        weights = {name: w.detach() for name, w in net.state_dict().items()}
        self._number = int(sandbox.ask("start", weights, static=(budget, seed))["out"])

    def _ask(self, function: str, *args: Any, rest: tuple = ()) -> Any:
        return self._sandbox.ask(function, *args, static=(self._number, *rest))["out"]

    def observe(self, x: Tensor, y: Tensor, task: int | None = None) -> float:
        """Let it learn from x (B, ...) and y (B,). Exceptions pass through."""
        reply = self._sandbox.ask("observe", x, y, static=(self._number, task))
        for place, written in reply["changed"].items():
            (x, y)[int(place)].copy_(written)  # repeat the write on this side
        return reply["out"].item()

    def end_task(self, task: int) -> None:
        """Tell it that a task has ended."""
        self._ask("end_task", rest=(task,))

    def logits(self, x: Tensor, task: int | None = None) -> Tensor:
        """Let it answer for x (B, ...): logits (B, C)."""
        return self._ask("logits", x, rest=(task,))

    def numbers_stored(self) -> int:
        """Ask how many numbers it stores."""
        return self._ask("numbers_stored")

    def state_dict(self) -> dict[str, Any]:
        """Save its state there. Returns the tensors (...) beside net and optimizer, and a number
        of what was saved."""
        return self._ask("save")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that was saved there, beside its tensors (...)."""
        self._ask("load", rest=(state["saved"],))


def _serve(module: ModuleType) -> Served:
    strategies: list[Strategy] = []
    saved: list[dict[str, Any]] = []

    def start(weights: dict[str, Tensor], budget: int, seed: int) -> Tensor:
        net = strategy_net(0)
        net.load_state_dict(weights)
        made = module.BalancedReplay(net, budget=budget, seed=seed)
        if not isinstance(made, Strategy):
            raise TypeError(f"the slot needs a Strategy, not {type(made).__name__}")
        strategies.append(made)
        return torch.tensor(len(strategies) - 1)

    def observe(x: Tensor, y: Tensor, number: int, task: int | None) -> Tensor:
        return torch.tensor(strategies[number].observe(x, y, task))

    def end_task(number: int, task: int) -> None:
        strategies[number].end_task(task)

    def save(number: int) -> dict[str, Any]:
        saved.append(strategies[number].state_dict())
        rest = {name: part for name, part in saved[-1].items() if name not in ("net", "optimizer")}
        leaves = [leaf for leaf in tree_leaves(rest) if isinstance(leaf, Tensor)]
        return {"saved": len(saved) - 1, "rest": leaves}

    def load(number: int, which: int) -> None:
        strategies[number].load_state_dict(saved[which])

    def fill(labels: Tensor, sizes: Tensor, slots: int, seed: int) -> Tensor:
        """Fill a memory with numbered examples, in batches of ``sizes``, and return what it
        kept."""
        memory, generator = module.BalancedReservoir(slots), Generator().manual_seed(seed)
        numbers = torch.arange(len(labels))
        for x, y in zip(numbers.split(sizes.tolist()), labels.split(sizes.tolist())):
            memory.add(generator, x, y)
        kept, labels = memory.all()
        return torch.stack([kept, labels])

    return {
        "start": start,
        "observe": observe,
        "end_task": end_task,
        "logits": lambda x, number, task: strategies[number].logits(x, task),
        "numbers_stored": lambda number: strategies[number].numbers_stored(),
        "save": save,
        "load": load,
        "fill": fill,
    }


class _Make:
    """Make proxies of the student's strategy, as ``make(net, budget, seed)``."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def __call__(self, net: nn.Module, budget: int, seed: int) -> RemoteStrategy:
        return RemoteStrategy(self.sandbox, net, budget, seed)


def _filled(make: Any, labels: Tensor, seed: int, slots: int = SLOTS) -> tuple[Tensor, Tensor]:
    """What a memory keeps of a stream with ``labels`` (N,): examples (S,) and labels (S,)."""
    sizes = torch.full((-(-len(labels) // 7),), 7)
    sizes[-1] = len(labels) - 7 * (len(sizes) - 1)
    return make.sandbox.ask("fill", labels, sizes, static=(slots, seed))["out"].unbind(0)


def _labels(seed: int) -> Tensor:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(COUNTS)])
    return labels[torch.randperm(len(labels), generator=Generator().manual_seed(seed))]


def _probe_counts(make: Any, seed: int) -> Evidence:
    """Count what is kept of each class, for streams in mixed order and class by class."""
    streams = {"mixed": _labels(seed), "class by class": _labels(seed).sort().values}
    streams["backwards"] = streams["class by class"].flip(0)
    counts = {}
    for name, labels in streams.items():
        kept, kept_labels = _filled(make, labels, seed)
        is_right = len(kept.unique()) == len(kept) and bool((labels[kept] == kept_labels).all())
        counts[name] = {
            "kept": kept_labels.bincount(minlength=len(COUNTS)).tolist(),
            "is_right": is_right,
        }
    return counts


def _judge_counts(evidence: Evidence) -> Verdict:
    for name, counts in evidence.items():
        kept = counts["kept"]
        if not counts["is_right"]:
            measured = f"in a stream {name} an example is kept twice, or with another label"
            return Verdict(False, measured, "write all parts of an example to one slot")
        if sum(kept) != SLOTS:
            measured = f"{sum(kept)} of {SLOTS} slots are used by a stream of {sum(COUNTS)}"
            return Verdict(False, measured, "replace an example only when all slots are used")
        full = [number for number, count in zip(kept, COUNTS) if number < count]
        if max(kept) - min(full, default=max(kept)) > 1:
            measured = f"a stream {name} of {COUNTS} examples a class leaves {kept}"
            return Verdict(False, measured, "make room in the class that has most")
    return Verdict(True, f"of {COUNTS} examples a class, {evidence['mixed']['kept']} are kept")


def _probe_chances(make: Any, seed: int) -> Evidence:
    """Count how often each example of the largest class is kept, over many streams."""
    labels, kept_often = _labels(seed), torch.zeros(sum(COUNTS))
    large = (labels == 2).nonzero()[:, 0]
    for run in range(RUNS):
        kept, _ = _filled(make, labels, 1000 * seed + run + 1)
        kept_often[kept] += 1
    half = len(large) // 2
    return {"first": kept_often[large[:half]].sum().item(), "all": kept_often[large].sum().item()}


def _judge_chances(evidence: Evidence) -> Verdict:
    share = evidence["first"] / max(1, evidence["all"])
    deviation = 0.5 / max(1, evidence["all"]) ** 0.5
    measured = f"the first half of a class has {share:.3f} of the slots of its class"
    hint = "of a full class, the n-th example replaces one with probability kept / n"
    return Verdict(abs(share - 0.5) < LIKELY * deviation, measured, hint)


SLOT = Slot(
    name="hw8",
    file="hw8_strategy.py",
    title="A memory that is fair to rare classes",
    serve=_serve,
    subject=_Make,
    checks=[
        *STRATEGY_CHECKS,
        Check("classes have equally many slots", _probe_counts, _judge_counts),
        Check("examples of a class have equal chances", _probe_chances, _judge_chances),
    ],
)
