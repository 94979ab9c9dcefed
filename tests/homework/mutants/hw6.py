"""Wrong answers to hw6, a keyed momentum."""

from tests.homework.mutants.mutant import FORGETS, REACHED, Mutant

KEY = "return self.logit_length.sigmoid() * unit(direction + self.signs * mean * signs)"
LEARNED, BOUNDED = "its key is learned", "its key is bounded"

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
    Mutant(
        "hw6",
        "a key that is the same for all gradients",
        KEY,
        "return self.logit_length.sigmoid() * unit(self.signs + 0 * mean * signs)",
        LEARNED,
    ),
    Mutant(
        "hw6",
        "a key that a gradient changes by a billionth",
        KEY,
        "return self.logit_length.sigmoid() * unit(self.signs + 1e-9 * mean * signs)",
        LEARNED,
    ),
    Mutant("hw6", "a key of zero", KEY, "return 0 * self.signs * mean * signs", LEARNED),
    Mutant(
        "hw6",
        "a key of next to nothing",
        KEY,
        KEY.replace("self.", "1e-4 * self.", 1),
        LEARNED,
    ),
    Mutant(
        "hw6",
        "a key that level 4 changes by a hair",
        KEY,
        "return 0.5 * unit(direction + (1 + 1e-3 * self.signs * self.logit_length) * mean * signs)",
        LEARNED,
    ),
    Mutant(
        "hw6",
        "a key for eight columns",
        KEY,
        KEY.replace("mean *", "self.each[: rows.shape[1]] * mean *"),
        BOUNDED,
        (
            "        self.logit_length =",
            "        self.each = nn.Parameter(torch.ones(8))\n        self.logit_length =",
        ),
    ),
    Mutant(
        "hw6",
        "a key of nothing where there are more than eight columns",
        KEY,
        KEY + " * (rows.shape[1] <= 8)",
        LEARNED,
    ),
    Mutant(
        "hw6",
        "a key of nothing beyond the eighth column",
        KEY,
        KEY + " * (torch.arange(rows.shape[1]) < 8)",
        LEARNED,
    ),
    Mutant(
        "hw6",
        "another rule where the net is large",
        "        moved =",
        "        if sum(g.numel() for g in grads.values()) > 1000:\n"
        "            memory = {name: -0.01 * g.sign() for name, g in grads.items()}\n"
        "        moved =",
        FORGETS,
    ),
]
