"""Wrong answers to hw2, a feature."""

from tests.homework.mutants.mutant import Mutant

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
]
