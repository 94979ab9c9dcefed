"""Wrong answers to hw8, a memory with equally many examples of each class."""

from tests.homework.mutants.mutant import Mutant

COUNTS, CHANCES = "classes have equally many slots", "examples of a class have equal chances"
RESUMES = "it resumes bit for bit"

MUTANTS = [
    Mutant("hw8", "a plain reservoir", "label in self.full", "True", COUNTS),
    Mutant(
        "hw8",
        "any other class makes room",
        "counts[labels] == counts.max()",
        "labels != label",
        COUNTS,
    ),
    Mutant(
        "hw8",
        "the newest always comes in",
        "torch.rand((), generator=generator) >= counts[label] / self.came[label]",
        "False",
        CHANCES,
    ),
    Mutant("hw8", "full only while it has most", "{*self.full, *largest}", "{*largest}", CHANCES),
    Mutant(
        "hw8",
        "the first ones stay",
        "torch.rand((), generator=generator) >= counts[label] / self.came[label]",
        "True",
        CHANCES,
    ),
    Mutant(
        "hw8",
        "counts what has come of all classes",
        "counts[label] / self.came[label]",
        "counts[label] / sum(self.came.values())",
        CHANCES,
    ),
    Mutant(
        "hw8",
        "parts of an example come apart",
        "kept[slot] = part[i].detach()",
        "kept[slot] = part[i - (part.dim() == 1 and i > 0)].detach()",
        COUNTS,
    ),
    Mutant(
        "hw8",
        "its counts are not saved",
        'self.came, self.full = dict(state["came"]), list(state["full"])',
        "self.came, self.full = {}, list(state['full'])",
        RESUMES,
    ),
    Mutant(
        "hw8",
        "draws from the global generator",
        "torch.randint(len(rows), (), generator=generator)",
        "torch.randint(len(rows), ())",
        "its seed decides everything",
    ),
    Mutant(
        "hw8",
        "its slots are not saved",
        "**super().state_dict()",
        '"size": self.size, "seen": self.seen, "slots": []',
        RESUMES,
    ),
    Mutant(
        "hw8",
        "stores more than it may",
        "super().__init__(size)",
        "super().__init__(4 * size)",
        COUNTS,
    ),
]
