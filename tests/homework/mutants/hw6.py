"""Wrong answers to hw6, a keyed momentum."""

from tests.homework.mutants.mutant import FORGETS, REACHED, Mutant

MUTANTS = [
    Mutant(
        "hw6",
        "the gradient itself for a key",
        "direction + self.signs * mean * signs",
        "direction + 0 * signs",
        "its key is learned",
    ),
    Mutant(
        "hw6",
        "a key without a bound",
        "self.logit_length.sigmoid() * unit(direction",
        "self.logit_length.sigmoid() * (rows",
        "its key is bounded",
    ),
    Mutant(
        "hw6",
        "the key is detached",
        "self.key(as_rows(grad))",
        "self.key(as_rows(grad)).detach()",
        REACHED,
    ),
    Mutant("hw6", "one decay for all", "(m @ k.T) @ k", "(k * k).sum() * m", FORGETS),
    Mutant("hw6", "the key on the other side", "(m @ k.T) @ k", "k @ (k.T @ m)", FORGETS),
    Mutant("hw6", "it never forgets", " - (m @ k.T) @ k", "", FORGETS),
    Mutant("hw6", "moves by the memory before", "w + memory[name]", "w + state[name]", FORGETS),
    Mutant(
        "hw6",
        "a momentum above 1",
        "self.logit_momentum.sigmoid()",
        "self.log_lr.exp() + 1",
        FORGETS,
    ),
]
