"""Wrong answers to hw4, a rate for each layer."""

from tests.homework.mutants.mutant import LEARNS, RIGHT, Mutant

WRAPPED = """import torch

from nested import Step, UpdateRule, momentum_step
from nested.rules import CoordinatewiseRule


class DepthRule(UpdateRule):
    ordered = True

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = CoordinatewiseRule(progress=False, generator=generator)

    def init(self, params):
        buffer = {n: torch.zeros_like(w) for n, w in params.items()}
        return {**self.inner.init(params), "momentum": buffer}

    def forward(self, params, grads, state, loss):
        step = self.inner(params, grads, state, loss)
        lr = step.signals["lr"]
        buffer = momentum_step(state["momentum"], grads, 0.5)
        moved = {n: w - rate * buffer[n] for rate, (n, w) in zip(lr, params.items())}
        return Step(moved, {**step.state, "momentum": buffer}, {"lr": lr})
"""


MUTANTS = [
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
        (
            "        flat = self.first.flatten()[:6] + self.last_bias + 0 * hidden.mean()\n"
            "        return torch.exp(flat[:count])"
        ),
        "it transfers to a deeper net",
    ),
    Mutant(
        "hw4",
        "goes by names",
        "place = torch.arange(count,",
        "place = len(next(iter(params))) + torch.arange(count,",
        "blind to names and order",
    ),
    Mutant("hw4", "a built-in, wrapped", "", WRAPPED, "it is not a built-in rule"),
    Mutant(
        "hw4",
        "a built-in, wrapped where the net is large",
        "        lr = self.rates(params, grads).to(loss.dtype)\n",
        "        lr = self.rates(params, grads).to(loss.dtype)\n"
        "        if sum(p.numel() for p in params.values()) > 1000:\n"
        "            from nested.rules import CoordinatewiseRule\n\n"
        "            inner = CoordinatewiseRule(progress=False).to(loss.dtype)\n"
        "            past = inner.init(params)\n"
        '            lr = lr + 0.01 * inner(params, grads, past, loss).signals["lr"]\n',
        "it is not a built-in rule",
    ),
    Mutant(
        "hw4",
        "another rule where the net is large",
        '        return Step(moved, buffer, {"lr": lr})',
        "        if sum(p.numel() for p in params.values()) > 1000:\n"
        "            moved = {n: w - 0.01 * torch.tanh(9 * buffer[n]) for n, w in params.items()}\n"
        '        return Step(moved, buffer, {"lr": lr})',
        "it moves by its rates",
    ),
    Mutant(
        "hw4",
        "another rule where the net is deep",
        '        return Step(moved, buffer, {"lr": lr})',
        "        if len(params) > 6:\n"
        "            moved = {n: w - 0.1 * grads[n] / grads[n].norm() for n, w in params.items()}\n"
        '        return Step(moved, buffer, {"lr": lr})',
        "it moves by its rates",
    ),
    Mutant(
        "hw4",
        "one rate for all where the net is deep",
        "        return torch.exp(3 * torch.tanh((hidden @ self.last + self.last_bias) / 3))",
        "        lr = torch.exp(3 * torch.tanh((hidden @ self.last + self.last_bias) / 3))\n"
        "        return lr if count < 6 else lr.mean().expand(count)",
        "each layer has a rate of its own",
    ),
]
