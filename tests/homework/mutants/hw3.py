"""Wrong answers to hw3, a rule that remembers."""

from tests.homework.mutants.mutant import LEARNS, PURE, RIGHT, Mutant

REMEMBERS = "it remembers earlier losses"
CELL = """i, f, o, g = (self.gates @ torch.cat([seen, state["h"]]) + self.gate_bias).chunk(4)
        c = torch.sigmoid(f + 1) * state["c"] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
"""
NET = """        x = self.gates @ torch.cat([seen, past, 0 * state["h"][2:]]) + self.gate_bias
        h = torch.tanh(x.reshape(4, -1).sum(0))
        c = 0 * h
"""
KEPT = '"h": h.to(state["h"].dtype)'
COUNTS = (  # a state that counts steps
    '"c": torch.zeros(UNITS, dtype=some.dtype, device=some.device),',
    '"c": torch.zeros(UNITS, dtype=some.dtype), "step": torch.zeros(()),',
    '"c": c.to(state["c"].dtype)}',
    '"c": c.to(state["c"].dtype), "step": state["step"] + 1}',
)


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
    Mutant(
        "hw3",
        "a moving average of what it saw, fed to a net",
        CELL,
        'past = 0.9 * state["h"][:2] + 0.1 * seen\n' + NET,
        REMEMBERS,
        (KEPT, KEPT.replace("h.to(", "torch.cat([past, 0 * h[2:]]).to(")),
    ),
    Mutant(
        "hw3",
        "a moving average whose decay is learned",
        CELL,
        "a = torch.sigmoid(self.gate_bias[:1] + 1)\n"
        '        past = a * state["h"][:2] + (1 - a) * seen\n' + NET,
        REMEMBERS,
        (KEPT, KEPT.replace("h.to(", "torch.cat([past, 0 * h[2:]]).to(")),
    ),
    Mutant(
        "hw3",
        "a window of the last eight losses, fed to a net",
        CELL,
        'window = torch.cat([seen[:1], state["h"][:-1]])\n'
        "        x = self.gates @ torch.cat([seen, window]) + self.gate_bias\n"
        "        h = torch.tanh(x.reshape(4, -1).sum(0))\n        c = 0 * h\n",
        REMEMBERS,
        (KEPT, KEPT.replace("h.to(", "window.to(")),
    ),
    Mutant(
        "hw3",
        "the largest loss so far, fed to a net",
        CELL,
        'past = torch.maximum(state["h"][:2], seen)\n' + NET,
        REMEMBERS,
        (KEPT, KEPT.replace("h.to(", "torch.cat([past, 0 * h[2:]]).to(")),
    ),
    Mutant(
        "hw3",
        "stops looking after ten steps",
        "        i, f, o, g =",
        '        seen = seen * (state["step"] < 10)\n        i, f, o, g =',
        "it sees loss and gradients",
        COUNTS,
    ),
    Mutant(
        "hw3",
        "stops remembering after ten steps",
        'torch.cat([seen, state["h"]])',
        'torch.cat([seen, state["h"] * (state["step"] < 10)])',
        REMEMBERS,
        (
            'sigmoid(f + 1) * state["c"]',
            'sigmoid(f + 1) * state["c"] * (state["step"] < 10)',
            *COUNTS,
        ),
    ),
    Mutant(
        "hw3",
        "looks at nothing where the net is large",
        "        i, f, o, g =",
        "        seen = seen * (len(params) * sum(p.numel() for p in params.values()) < 1000)\n"
        "        i, f, o, g =",
        "it sees loss and gradients",
    ),
    Mutant(
        "hw3",
        "another rule where the net is large",
        "        kept =",
        "        if sum(p.numel() for p in params.values()) > 1000:\n"
        "            moved = {n: w - 0.01 * grads[n].sign() for n, w in params.items()}\n"
        "        kept =",
        "it moves by its signals",
    ),
]
