"""Wrong answers to hw3, a rule that remembers."""

from tests.homework.mutants.mutant import LEARNS, PURE, RIGHT, Mutant

MUTANTS = [
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
        ('* state["c"]', '* 0 * state["c"]'),
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
        (
            '        self.past = [*getattr(self, "past", []), h]\n'
            "        lr = lr * (1 + 0.01 * len(self.past))\n"
            "        moved = slow_weights_step(params, buffer, lr)\n"
            "        return Step(moved, kept"
        ),
        "the same every time",
    ),
    Mutant(
        "hw3",
        "a built-in returned as one's own",
        "class RecurrentRule(UpdateRule):",
        (
            "from nested import MetaOptimizer as RecurrentRule\n"
            "\n"
            "\n"
            "class Other(UpdateRule):"
        ),
        "it remembers earlier losses",
    ),
]
