"""Wrong answers to hw1, a family."""

from tests.homework.mutants.mutant import Mutant

MUTANTS = [
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
        (
            "x = torch.round(x)\n"
            "        return x, torch.sin(x), torch.tensor(float(split == 'query'))"
        ),
        "query data are never train data",
        ("x, y = batch", "x, y, _ = batch"),
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
        (
            "from nested.tasks import SumRegression as MyFamily\n"
            "\n"
            "\n"
            "class Other(TaskFamily):"
        ),
        "it is not a built-in family",
    ),
]
