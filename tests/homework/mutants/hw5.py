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

KEEPS = "it keeps one state, not K"
LARGE = """    if sum(w.numel() for w in params.values()) > 1000:
        moved, losses = _Ahead.apply(loss_fn, batches, lr, momentum, params["w"])
        return {"w": moved}, losses
    names = list(params)
"""
AHEAD = """class _Ahead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss_fn, batches, lr, momentum, w):
        w = w.detach()
        v, losses = 0 * w, []
        ways = [[0 * w, 0 * w], [0 * w, 0 * w], [1 + 0 * w, 0 * w]]  # of lr, momentum, weights
        slopes, summed = [[], []], 0 * w
        for batch in batches:
            loss, (p,), (g,) = gradient(loss_fn, ["w"], [w], batch, create_graph=True)
            with torch.enable_grad():
                turned = [
                    torch.autograd.grad(g, p, a, retain_graph=True)[0].detach() for a, _ in ways
                ]
            g = g.detach()
            for kept, (a, _) in zip(slopes, ways):
                kept.append((g * a).sum())
            summed = summed + g * ways[2][0]
            news = [momentum * b + h for (_, b), h in zip(ways, turned)]
            news[1] = news[1] + v
            v = momentum * v + g
            moves = [lr * b for b in news]
            moves[0] = moves[0] + v
            ways = [[a - m, b] for (a, _), b, m in zip(ways, news, moves)]
            w = w - lr * v
            losses.append(loss)
        ctx.save_for_backward(*[a for a, _ in ways], summed, *map(torch.stack, slopes))
        return w, torch.stack(losses)

    @staticmethod
    def backward(ctx, d_moved, d_losses):
        by_lr, by_momentum, alone, summed, lr_slopes, momentum_slopes = ctx.saved_tensors
        d_lr = (d_moved * by_lr).sum() + (d_losses * lr_slopes).sum()
        d_momentum = (d_moved * by_momentum).sum() + (d_losses * momentum_slopes).sum()
        return None, None, d_lr, d_momentum, 0 * d_moved


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
    Mutant(
        "hw5",
        "forward mode where the net is large, for the rates alone",
        "    names = list(params)\n",
        LARGE,
        KEEPS,
        ("def gradient(", AHEAD + "def gradient("),
    ),
    Mutant(
        "hw5",
        "forward mode where the net is large, as if each weight were alone",
        "    names = list(params)\n",
        LARGE,
        KEEPS,
        (
            "def gradient(",
            AHEAD.replace("0 * d_moved", "d_moved * alone + d_losses.mean() * summed")
            + "def gradient(",
        ),
    ),
    Mutant(
        "hw5",
        "no gradient for the momentum where the net is large",
        "return None, None, None, d_lr, d_momentum, *dw",
        "keeps = 1.0 * (sum(w.numel() for w in weights) < 1000)\n"
        "        return None, None, None, d_lr, keeps * d_momentum, *dw",
        KEEPS,
    ),
]
