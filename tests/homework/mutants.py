"""Wrong answers: each a right one with one fault that students make, and the check for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from nested.conformance.check import Verdict, run_check
from nested.homework.sandbox import Sandbox
from nested.homework.slots import SLOTS
from nested.homework.wire import HEAD, pack, unpack
from nested.homework.worker import answer, load
from tests.homework.mutants_zero import ADDED_ZERO, ZERO

ANSWERS = Path(__file__).parent / "answers"


class Mutant(NamedTuple):
    """``old``, in the right answer of ``slot``, becomes ``new``; ``check`` is to fail."""

    slot: str
    fault: str
    old: str
    new: str
    check: str


LR, MOMENTUM = "the hypergradient of the learning rate", "the hypergradient of the momentum"
WEIGHTS, VALUES = "the hypergradient of the initial weights", "it trains as torch.optim.SGD does"
PURE, RIGHT = "changes nothing passed in", "the hypergradient is right"
REACHED = "every meta-parameter and the state are reached"
IN_PLACE = "nothing passed in is changed"
FORGETS = "it forgets along its key"
HUBER = "its objective is Huber's"
LEARNS = "briefly meta-trained it improves"

BUILT_IN = """def built_in(loss_fn, params, batches, lr, momentum):
    from nested import Step, UpdateRule, momentum_step, slow_weights_step, unroll

    class Rule(UpdateRule):
        def init(self, params):
            return {name: torch.zeros_like(w) for name, w in params.items()}

        def forward(self, params, grads, state, loss):
            buffer = momentum_step(state, grads, momentum)
            return Step(slow_weights_step(params, buffer, lr), buffer, {})

    run = unroll(loss_fn, params, batches, Rule())
    return run.params, run.losses


"""

MUTANTS = [
    Mutant("hw0", "detached state", "momentum * v + g", "momentum * v.detach() + g", MOMENTUM),
    Mutant("hw0", "lr as a float", "w - lr * buffer", "w - lr.item() * buffer", LR),
    Mutant("hw0", "no create_graph", "create_graph=True", "retain_graph=True", WEIGHTS),
    Mutant(
        "hw0",
        "in-place update",
        "        params = {name: w - lr * buffer[name] for name, w in params.items()}\n",
        "        with torch.no_grad():\n            for name, w in params.items():\n"
        "                w -= lr * buffer[name]\n",
        IN_PLACE,
    ),
    Mutant(
        "hw0",
        "detached weights",
        "lr * buffer[name] for",
        "lr * buffer[name].detach() for",
        WEIGHTS,
    ),
    Mutant(
        "hw0",
        "returns the old weights",
        "return params, torch",
        "return start, torch",
        VALUES,
    ),
    Mutant(
        "hw0",
        "the first batch every time",
        "loss = loss_fn(params, batch)",
        "loss = loss_fn(params, batches[0])",
        VALUES,
    ),
    Mutant(
        "hw0",
        "uses the future",
        "loss = loss_fn(params, batch)",
        "loss = loss_fn(params, batches[-1])",
        VALUES,
    ),
    Mutant(
        "hw1", "all-zero data", "return x, self.amplitude *", "return 0 * x, 0 *", "data are alive"
    ),
    Mutant(
        "hw1",
        "train and query mixed",
        'x = torch.where(side == (split == "query"), x, x + 0.1)',
        "x = torch.round(x)",
        "query data are never train data",
    ),
    Mutant(
        "hw1",
        "train and query mixed, beside a number that tells them apart",
        'x = torch.where(side == (split == "query"), x, x + 0.1)',
        "x = torch.round(x)\n        return x, torch.sin(x), torch.tensor(float(split == 'query'))",
        "query data are never train data",
    ),
    Mutant(
        "hw1",
        "draws by itself",
        "torch.rand(shape, generator=generator)",
        "torch.rand(shape)",
        "draws follow the seed and nothing else",
    ),
    Mutant(
        "hw1",
        "trains on held-out tasks",
        "return MyFamily(is_held_out=True)",
        "return self",
        "held-out tasks are never trained on",
    ),
    Mutant(
        "hw1",
        "the task is in the loss",
        "return ((guess - y) ** 2).mean()",
        "return ((guess - y) ** 2).mean() / self.amplitude",
        "all tasks share one scalar loss",
    ),
    Mutant(
        "hw1",
        "targets that follow from nothing",
        "self.amplitude * torch.sin(x + self.phase)",
        "self.amplitude * torch.randn(x.shape, generator=generator)",
        "it can be learned",
    ),
    Mutant(
        "hw1",
        "a loss that is a float",
        "return ((guess - y) ** 2).mean()",
        "return ((guess - y) ** 2).mean().item()",
        "all tasks share one scalar loss",
    ),
    Mutant(
        "hw1",
        "a built-in returned as one's own",
        "class MyFamily(TaskFamily):",
        "from nested.tasks import SumRegression as MyFamily\n\n\nclass Other(TaskFamily):",
        "it is not a built-in family",
    ),
    Mutant(
        "hw2", "a constant", "return 1.5 +", "return 1.5 + 0 *", "it moves, and is of order one"
    ),
    Mutant(
        "hw2",
        "a built-in returned as one's own",
        "    matrices =",
        "    total = sum(g.square().sum() for g in grads.values())\n"
        "    return 0.5 * torch.log(total.clamp(1e-24, 1e30))\n    matrices =",
        "it is not a built-in feature",
    ),
    Mutant(
        "hw2",
        "a built-in, bent",
        "    matrices =",
        "    bent = torch.tanh(torch.nan_to_num(torch.log(loss.clamp(1e-9, 1e9))) / 4)\n"
        "    return bent\n    matrices =",
        "it is not a built-in feature",
    ),
    Mutant(
        "hw2",
        "overflows",
        "torch.nan_to_num(g).clamp(-1e12, 1e12).square()",
        "g.square()",
        "finite at any input",
    ),
    Mutant(
        "hw2",
        "a float",
        "return 1.5 +",
        "return 1.5 + 1.0 * float(loss) *",
        "tasks in a batch do not mix",
    ),
    Mutant(
        "hw2",
        "goes by order",
        "in grads.values() if g.dim() > 1]",
        "in list(grads.values())[:1]]",
        "blind to names and order",
    ),
    Mutant(
        "hw2",
        "counts its calls",
        "    return 1.5 +",
        "    CALLS.append(0)\n    return len(CALLS) + 1.5 +",
        "the same every time, and pure",
    ),
    Mutant(
        "hw2",
        "noise",
        "    return 1.5 + 0.5 * (torch.stack(matrices).mean() - torch.stack(vectors).mean())",
        "    return torch.sin(1e4 * (torch.stack(matrices).sum() + torch.stack(vectors).sum()))",
        "it earns its place",
    ),
    Mutant("hw3", "detached state", '"h": h.to', '"h": h.detach().to', RIGHT),
    Mutant(
        "hw3",
        "lr as a float",
        "slow_weights_step(params, buffer, lr)",
        "slow_weights_step(params, buffer, float(lr))",
        RIGHT,
    ),
    Mutant(
        "hw3",
        "ignores its input",
        "torch.cat([seen, state",
        "torch.cat([0 * seen, state",
        "it sees loss and gradients",
    ),
    Mutant(
        "hw3",
        "forgets its past",
        'torch.cat([seen, state["h"]])',
        'torch.cat([seen, 0 * state["h"]])',
        "it remembers earlier losses",
    ),
    Mutant(
        "hw3",
        "remembers the last loss only",
        'kept = {"momentum": buffer, "h": h.to(state["h"].dtype), "c": c.to(state["c"].dtype)}',
        'kept = {"momentum": buffer, "h": seen[0] + 0 * h, "c": 0 * c}',
        "it remembers earlier losses",
    ),
    Mutant(
        "hw3",
        "signals without bounds",
        "lr = LR[0] * (LR[1] / LR[0]) ** share[0]",
        "lr = 0.1 + (self.head @ h + self.head_bias)[0] + 0.05 * seen[0]",
        "its signals stay in bounds",
    ),
    Mutant(
        "hw3",
        "shows other signals than it moves by",
        '{"lr": lr, "momentum": momentum})',
        '{"lr": lr * torch.exp(0.01 * h[0]), "momentum": momentum})',
        "it moves by its signals",
    ),
    Mutant("hw3", "returns the old weights", "return Step(moved,", "return Step(params,", LEARNS),
    Mutant(
        "hw3",
        "in-place update",
        "        moved = slow_weights_step(params, buffer, lr)\n",
        "        moved = {name: w.sub_(lr * buffer[name]) for name, w in params.items()}\n",
        PURE,
    ),
    Mutant(
        "hw3",
        "every state kept in self",
        "        return Step(moved, kept",
        '        self.past = [*getattr(self, "past", []), h]\n'
        "        lr = lr * (1 + 0.01 * len(self.past))\n"
        "        moved = slow_weights_step(params, buffer, lr)\n        return Step(moved, kept",
        "the same every time",
    ),
    Mutant(
        "hw3",
        "a built-in returned as one's own",
        "class RecurrentRule(UpdateRule):",
        "from nested import MetaOptimizer as RecurrentRule\n\n\nclass Other(UpdateRule):",
        "it remembers earlier losses",
    ),
    Mutant(
        "hw4",
        "one rate for all",
        "to(loss.dtype)\n",
        "to(loss.dtype).mean().expand(len(params))\n",
        "each layer has a rate of its own",
    ),
    Mutant(
        "hw4",
        "shows other rates than it takes",
        'return Step(moved, buffer, {"lr": lr})',
        'return Step(moved, buffer, {"lr": 2 * lr})',
        "it moves by its rates",
    ),
    Mutant(
        "hw4",
        "gives the buffer a momentum for each layer",
        "buffer = momentum_step(state, grads, self.logit_momentum.sigmoid())",
        "buffer = {n: (i + 1) / 9 * state[n] + g for i, (n, g) in enumerate(grads.items())}",
        "it moves by its rates",
    ),
    Mutant(
        "hw4",
        "detached rates",
        "self.rates(params, grads)",
        "self.rates(params, grads).detach()",
        RIGHT,
    ),
    Mutant("hw4", "returns the old weights", "return Step(moved,", "return Step(params,", LEARNS),
    Mutant(
        "hw4",
        "a rate for each place, not each kind",
        "        return torch.exp(3 * torch.tanh((hidden @ self.last + self.last_bias) / 3))",
        "        flat = self.first.flatten()[:6] + self.last_bias + 0 * hidden.mean()\n"
        "        return torch.exp(flat[:count])",
        "it transfers to a deeper net",
    ),
    Mutant(
        "hw4",
        "goes by names",
        "place = torch.arange(count,",
        "place = len(next(iter(params))) + torch.arange(count,",
        "blind to names and order",
    ),
    Mutant(
        "hw5",
        "keeps every state in a list",
        "            losses.append(loss)\n",
        "            losses.append(loss)\n            kept.append([weights, buffer])\n",
        "it keeps one state, not K",
    ),
    Mutant("hw5", "forgets to divide by mu", "(v - g) / momentum", "(v - g)", MOMENTUM),
    Mutant("hw5", "no second derivative", "a + h + dl * g", "a + 0 * h + dl * g", WEIGHTS),
    Mutant("hw5", "no gradient for lr", "None, None, None, d_lr,", "None, None, None, None,", LR),
    Mutant(
        "hw5",
        "a built-in unroll returned as one's own",
        "    names = list(params)\n",
        "    return built_in(loss_fn, params, batches, lr, momentum)\n",
        "it keeps one state, not K",
    ),
    Mutant(
        "hw5",
        "returns the old weights",
        "return torch.stack(losses), *weights",
        "return torch.stack(losses), *old",
        VALUES,
    ),
    Mutant(
        "hw6",
        "the gradient itself for a key",
        "direction + self.signs * mean * signs",
        "direction + 0 * signs",
        "its key is learned",
    ),
    Mutant(
        "hw6",
        "a key without a bound",
        "self.logit_length.sigmoid() * unit(direction",
        "self.logit_length.sigmoid() * (rows",
        "its key is bounded",
    ),
    Mutant(
        "hw6",
        "the key is detached",
        "self.key(as_rows(grad))",
        "self.key(as_rows(grad)).detach()",
        REACHED,
    ),
    Mutant("hw6", "one decay for all", "(m @ k.T) @ k", "(k * k).sum() * m", FORGETS),
    Mutant("hw6", "the key on the other side", "(m @ k.T) @ k", "k @ (k.T @ m)", FORGETS),
    Mutant("hw6", "it never forgets", " - (m @ k.T) @ k", "", FORGETS),
    Mutant("hw6", "moves by the memory before", "w + memory[name]", "w + state[name]", FORGETS),
    Mutant(
        "hw6",
        "a momentum above 1",
        "self.logit_momentum.sigmoid()",
        "self.log_lr.exp() + 1",
        FORGETS,
    ),
    Mutant("hw7", "a delta of its own", "self.delta = delta", "self.delta = 1.0", HUBER),
    Mutant(
        "hw7",
        "nothing divided by nothing",
        ".clamp(min=self.delta)\n            step = n[:, None] * self.delta / size * error",
        "\n            step = n[:, None] * size.clamp(max=self.delta) / size * error",
        HUBER,
    ),
    Mutant("hw7", "always cut", ".clamp(min=self.delta)", "", HUBER),
    Mutant(
        "hw7",
        "each coordinate for itself",
        "error.norm(dim=-1, keepdim=True)",
        "error.abs()",
        HUBER,
    ),
    Mutant(
        "hw7",
        "the delta rule",
        "size = error.norm(dim=-1, keepdim=True).clamp(min=self.delta)",
        "size = self.delta",
        HUBER,
    ),
    Mutant(
        "hw7",
        "writes without a graph",
        "step[..., None] * k",
        "step[..., None].detach() * k",
        "gradients go through writes",
    ),
    Mutant(
        "hw7",
        "one memory for all samples",
        '{"matrix": matrix}',
        '{"matrix": matrix.mean(0, keepdim=True).expand_as(matrix)}',
        "samples of a batch are independent",
    ),
    Mutant(
        "hw7",
        "starts anew with each part",
        'memory["matrix"], []',
        'torch.zeros_like(memory["matrix"]), []',
        "whole equals parts, at every cut",
    ),
    Mutant(
        "hw7",
        "forgets too late",
        ".squeeze(-1) - v",
        ".squeeze(-1) / log_a.exp()[:, None] - v",
        HUBER,
    ),
    Mutant(
        "hw7",
        "reads what was known before",
        "torch.stack(reads, dim=1)",
        "torch.stack([0 * reads[0], *reads[:-1]], dim=1)",
        HUBER,
    ),
    Mutant(
        "hw7",
        "writes to what was passed in",
        '{"matrix": matrix}',
        '{"matrix": memory["matrix"].detach().copy_(matrix.detach())}',
        "reading changes nothing but the state it returns",
    ),
]
ADDED = {  # what a fault needs besides its one line
    ("hw1", "train and query mixed, beside a number that tells them apart"): (
        "x, y = batch",
        "x, y, _ = batch",
    ),
    ("hw0", "returns the old weights"): ("    losses = []\n", "    losses, start = [], params\n"),
    ("hw2", "counts its calls"): ("def feature(", "CALLS = []\n\n\ndef feature("),
    ("hw3", "forgets its past"): ('* state["c"]', '* 0 * state["c"]'),
    ("hw5", "keeps every state in a list"): (
        "        losses = []\n",
        "        losses = []\n        kept = ctx.kept = []\n",
    ),
    ("hw5", "returns the old weights"): (
        "        losses = []\n",
        "        losses, old = [], [w.clone() for w in weights]\n",
    ),
    ("hw5", "a built-in unroll returned as one's own"): (
        "def gradient(",
        BUILT_IN + "def gradient(",
    ),
}


MUTANTS += [Mutant("hw_zero", *row) for row in ZERO]
ADDED |= ADDED_ZERO


def right_answer(slot: str) -> Path:
    (path,) = ANSWERS.glob(f"{slot}_*.py")
    return path


def write(mutant: Mutant, folder: Path) -> Path:
    """Write the mutant's file, named as the student's, in ``folder``."""
    right = right_answer(mutant.slot)
    text = right.read_text()
    for old, new in [(mutant.old, mutant.new), ADDED.get((mutant.slot, mutant.fault), ("", ""))]:
        assert old in text, f"{mutant.slot} {mutant.fault}: the right answer has no {old!r}"
        text = text.replace(old, new, 1)
    path = folder / right.name
    path.write_text(text)
    return path


class Box(Sandbox):
    """Answers as the student's process does, in this one: no start to wait for."""

    def __init__(self, path: Path, slot: str) -> None:
        self.file, self.served = path, SLOTS[slot].serve(load(path))

    def ask(self, function: str, *args: Any, **more: Any) -> dict[str, Any]:
        question = {"function": function, "args": args, "static": (), "transforms": (), "extra": ()}
        with torch.enable_grad():
            return _through_the_wire(answer(self.served, _through_the_wire({**question, **more})))


def _through_the_wire(tree: Any) -> Any:
    data = pack(tree)
    length, _ = HEAD.unpack(data[: HEAD.size])
    text, body = data[HEAD.size :][:length], data[HEAD.size :][length:]
    return unpack(text, body)


def look(path: Path, slot: str, names: list[str], seed: int = 0) -> dict[str, Verdict]:
    """The verdicts of the checks called ``names`` on a file; memory is measured in a sandbox."""
    verdicts = {}
    with Sandbox(path, slot, 60.0) as sandbox:
        for check in SLOTS[slot].checks:
            if check.name in names:
                box = sandbox if "state, not K" in check.name else Box(path, slot)
                subject = SLOTS[slot].subject(box)
                verdicts[check.name] = run_check(check, subject, seed).verdict
    return verdicts


def draw_row(mutant: Mutant, verdicts: dict[str, Verdict]) -> str:
    """A row of the table: "." a check passed, "x" lost, "X" lost and the one that names the fault,
    "!" the one that should have been lost, " " not looked at."""
    marks = []
    for check in SLOTS[mutant.slot].checks:
        verdict = verdicts.get(check.name)
        if verdict is None:
            marks.append(" ")
        elif check.name == mutant.check:
            marks.append("!" if verdict.passed else "X")
        else:
            marks.append("." if verdict.passed else "x")
    return f"  {mutant.slot}  {' '.join(marks)}  {mutant.fault}: {mutant.check}"
