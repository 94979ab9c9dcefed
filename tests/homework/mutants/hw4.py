"""Wrong answers to hw4, a rate for each layer."""

from tests.homework.mutants.mutant import LEARNS, RIGHT, Mutant

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
]
