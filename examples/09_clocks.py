# %% [markdown]
# # 09. Clocks: what survives in slow levels? (9 s)
#
# Four memories read the same text. They learn in the same way, and differ only in their clocks: one
# writes every 4 tokens, the others every 16, 64 and 256. The text speaks about one subject for a
# long time, and then about another. Which of them still knows the old subject?

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import Generator
from torch.nn.functional import normalize, pad, silu

from nested.memory.continuum import ContinuumLevel
from nested.support.files import prepare_folder
from nested.support.plots import save_figure

PERIODS = (4, 16, 64, 256)  # tokens from one write to the next
DIM, FACTS = 32, 12
TEXTS = 16  # B: each has its own facts and its own memories
OLD, NEW = 32_768, 2_048  # tokens about the old subject, then about the new one
BEFORE, EVERY = 512, 32  # the questions start this many tokens before the change; one every 32
SEED = 0
folder = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **The text.** A subject has twelve facts. A fact is a key of 16 numbers and a value of 16 numbers,
# and one token holds both. The text repeats the facts in random order. We draw 16 such texts, and a
# third subject for each, which its text never mentions.

# %%
HALF = DIM // 2
generator = Generator().manual_seed(SEED)


def draw_facts():
    """Facts (B, FACTS, DIM): a key, then a value, each of length 1."""
    keys, values = normalize(torch.randn(2, TEXTS, FACTS, HALF, generator=generator), dim=-1)
    return torch.cat([keys, values], dim=-1)


def repeat(facts, length):
    """A text (B, length, DIM) of these facts in random order."""
    order = torch.randint(FACTS, (TEXTS, length, 1), generator=generator)
    return facts.gather(1, order.expand(-1, -1, DIM))


old, new, third = draw_facts(), draw_facts(), draw_facts()
text = torch.cat([repeat(old, OLD), repeat(new, NEW)], dim=1)  # (B, T, DIM)

# %% [markdown]
# **A level** is a small net with two matrices, `answer = W1 silu(W2 query)`. It adds up the
# gradients of all tokens of a period, and then takes one step. Between two steps it still answers
# every token, with the weights of its last step.
#
# Inside a model, training finds the three linear maps that make the query, the key and the value
# out of a token. Nothing is trained here, so we set them by hand:
#
# - *query* and *key* copy the first half of the token, and *value* copies the second half;
# - *rate* is a gate that starts at a tenth of its largest value, because a model reads long texts.
#   We raise its bias, which gives 0.86 of the largest value, so that our text can be short.


# %%
def make_level(period):
    torch.manual_seed(SEED)  # all levels start from the same W1 and W2
    level = ContinuumLevel(DIM, period).requires_grad_(False)
    copy_half = torch.eye(HALF)
    for linear, start in ((level.query, 0), (level.key, 0), (level.value, HALF)):
        linear.weight.zero_()
        linear.weight[:HALF, start : start + HALF] = copy_half
    level.rate.offset += 3
    return level


# %% [markdown]
# **The question.** Given the key of a fact, how wrong is the value in the answer? The error is
# relative to the length of the true value. At 0 the level knows the fact. An error of 1 means that
# it knows nothing: an answer of zeros has it. Above 1, it answers with the values of other facts.


# %%
def error(state, facts):
    """The relative error of all values, a mean over the texts."""
    weights = state["memory"]["start"]  # since the last step: (B, DIM, DIM)
    queries = pad(facts[..., :HALF], (0, HALF))  # the value is not shown
    answers = silu(queries @ weights["w2"].mT) @ weights["w1"].mT
    values = facts[..., HALF:]
    wrong = answers[..., :HALF] - values
    return (wrong.norm(dim=(1, 2)) / values.norm(dim=(1, 2))).mean().item()


# %% [markdown]
# **Four levels, side by side.** Each level reads the text alone. (`ContinuumMemory` chains such
# levels, so that each reads what the faster one has made of the text. Lesson 12 trains a model of
# them.) The levels take steps of the same size: the rate of a token is divided by the period.

# %%
errors = {}  # {period: [(error of the old facts, of the new facts), ...]}
never_read = {}  # {period: error of the third subject, at the end}
for period in PERIODS:
    level = make_level(period)
    _, state = level(text[:, : OLD - BEFORE])
    errors[period] = []
    for part in text[:, OLD - BEFORE :].split(EVERY, dim=1):
        _, state = level(part, state)
        errors[period].append((error(state, old), error(state, new)))

    never_read[period] = error(state, third)

print(f"relative error after {OLD:,} tokens about the old subject, {NEW:,} about the new")
print("                    old facts   old facts,   new facts,   facts that were")
print("period    steps   when it ended   at the end   at the end   never read")
for period, pairs in errors.items():
    (before, _), (after, learned) = pairs[BEFORE // EVERY - 1], pairs[-1]
    numbers = (before, after, learned, never_read[period])
    print(f"{period:6}{(OLD + NEW) // period:9}" + "".join(f"{x:13.2f}" for x in numbers))

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.8), layout="constrained", sharey=True)
for i, (panel, title) in enumerate(zip(axes, ("old facts", "new facts"))):
    for period, pairs in errors.items():
        tokens = [(j + 1) * EVERY - BEFORE for j in range(len(pairs))]
        panel.plot(tokens, [pair[i] for pair in pairs], label=f"every {period} tokens")
    panel.axvline(0, color="grey", linestyle=":")
    panel.axhline(1, color="grey", linestyle=":")
    panel.set(xlabel="tokens since the change", title=title, ylim=(0, 2.2))
axes[0].text(-BEFORE, 1.02, "knows\nnothing", color="grey", va="bottom")
axes[0].set(ylabel="relative error of the values")
axes[1].legend(title="a step", fontsize=9, loc="upper right")
figure.suptitle("Slow levels still know the old facts when fast ones have lost them")
save_figure(figure, folder / "lesson_09.png")

# %% [markdown]
# **Answer.** The old subject survives in the slow levels, because they have taken few steps since
# the change. The fastest level knows the new facts. About the old ones it is nearly as wrong, 1.58,
# as about facts that it never read, 1.77. All levels take steps of the same size, so the clock
# alone decides how far back a level remembers. It has its price: the slowest level has hardly begun
# to learn the new facts.
#
# **Exercise.** Read about the new subject for longer: `NEW = 32_768`. After how many tokens does
# each level reach an error of 1 on the old facts, and how does that number grow with the period?
