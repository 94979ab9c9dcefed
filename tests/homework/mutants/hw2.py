"""Wrong answers to hw2, a feature."""

from tests.homework.mutants.mutant import Mutant

OWN = "it is not a built-in feature"

BUILT_INS = """def log_loss(loss):
    return torch.log(torch.nan_to_num(loss.abs(), nan=1.0).clamp(1e-6, 1e6)) / 2


def log_norm(grads):
    total = sum(g.clamp(-1e15, 1e15).square().sum() for g in grads.values())
    return torch.log(total + 1e-12) / 4


def log_size("""

MUTANTS = [
    Mutant(
        "hw2", "a constant", "return 1.5 +", "return 1.5 + 0 *", "it moves, and is of order one"
    ),
    Mutant(
        "hw2",
        "a built-in returned as one's own",
        "    matrices =",
        (
            "    total = sum(g.square().sum() for g in grads.values())\n"
            "    return 0.5 * torch.log(total.clamp(1e-24, 1e30))\n"
            "    matrices ="
        ),
        "it is not a built-in feature",
    ),
    Mutant(
        "hw2",
        "a built-in, bent",
        "    matrices =",
        (
            "    bent = torch.tanh(torch.nan_to_num(torch.log(loss.clamp(1e-9, 1e9))) / 4)\n"
            "    return bent\n"
            "    matrices ="
        ),
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
        ("    CALLS.append(0)\n" "    return len(CALLS) + 1.5 +"),
        "the same every time, and pure",
        ("def feature(", ("CALLS = []\n" "\n" "\n" "def feature(")),
    ),
    Mutant(
        "hw2",
        "noise",
        "    return 1.5 + 0.5 * (torch.stack(matrices).mean() - torch.stack(vectors).mean())",
        ("    return torch.sin(1e4 * (torch.stack(matrices).sum() + torch.stack(vectors).sum()))"),
        "it earns its place",
    ),
    Mutant(
        "hw2",
        "two built-ins added",
        "    matrices =",
        "    return 0.5 * (log_loss(loss) + log_norm(grads))\n    matrices =",
        OWN,
        ("def log_size(", BUILT_INS),
    ),
    Mutant(
        "hw2",
        "a built-in with a ripple",
        "    matrices =",
        "    return log_norm(grads) + 0.3 * torch.sin(30 * log_norm(grads))\n    matrices =",
        OWN,
        ("def log_size(", BUILT_INS),
    ),
    Mutant(
        "hw2",
        "a built-in with the clock on it",
        "    matrices =",
        "    return log_norm(grads) + torch.log1p(step) / 2\n    matrices =",
        OWN,
        ("def log_size(", BUILT_INS),
    ),
    Mutant(
        "hw2",
        "two built-ins multiplied, and a dust of something else",
        "    matrices =",
        "    dust = 1e-4 * torch.tanh(sum(w.mean() for w in params.values()))\n"
        "    return log_loss(loss) * torch.tanh(log_norm(grads)) + dust\n    matrices =",
        OWN,
        ("def log_size(", BUILT_INS),
    ),
]
