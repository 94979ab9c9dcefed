"""Wrong answers to hw5, a reversible unroll."""

from tests.homework.mutants.mutant import LR, MOMENTUM, VALUES, WEIGHTS, Mutant

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
    Mutant(
        "hw5",
        "keeps every state in a list",
        "            losses.append(loss)\n",
        ("            losses.append(loss)\n" "            kept.append([weights, buffer])\n"),
        "it keeps one state, not K",
        ("        losses = []\n", ("        losses = []\n" "        kept = ctx.kept = []\n")),
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
        ("def gradient(", BUILT_IN + "def gradient("),
    ),
    Mutant(
        "hw5",
        "returns the old weights",
        "return torch.stack(losses), *weights",
        "return torch.stack(losses), *old",
        VALUES,
        ("        losses = []\n", "        losses, old = [], [w.clone() for w in weights]\n"),
    ),
]
