"""Wrong answers to hw7, a robust memory."""

from tests.homework.mutants.mutant import HUBER, Mutant

MUTANTS = [
    Mutant("hw7", "a delta of its own", "self.delta = delta", "self.delta = 1.0", HUBER),
    Mutant(
        "hw7",
        "nothing divided by nothing",
        (".clamp(min=self.delta)\n" "            step = n[:, None] * self.delta / size * error"),
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
    Mutant(
        "hw7",
        "borrows a reference from the grader",
        '        matrix, reads = memory["matrix"], []\n',
        (
            "        from nested.homework.slots import hw7\n\n"
            "        if position == 0:\n"
            "            return hw7._huber(*self.project(x), self.delta), memory\n"
            '        matrix, reads = memory["matrix"], []\n'
        ),
        HUBER,
    ),
]
