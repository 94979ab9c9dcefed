# %% [markdown]
# # 14. Continual learning: what do nested levels buy? (10 s)
#
# A net that learns one task after another forgets the earlier ones. Gradient descent moves its
# weights to wherever the newest batch wants them. Earlier lessons had levels that move at clocks of
# their own. Here the weights themselves become levels. The fast ones learn from each batch. A slow
# copy follows them, holds them back, and answers.

# %%
import os

import torch

from nested.continual import (
    STRATEGIES,
    average_accuracy,
    forgetting,
    labelled,
    make_stream,
    run,
)
from nested.continual.nets import build_net
from nested.support.files import prepare_folder
from nested.support.intervals import interval
from nested.support.plots import new_figure, save_figure
from nested.tasks.digits import load_digits

SEEDS, WIDTH = 10, 32
BUDGET = 10_000  # numbers that each strategy may store: examples, logits, copies of weights
folder = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **A stream** shows each digit once, in five tasks of two classes. It is not tidy. A tenth of the
# examples in each task belong to the next task. Some examples of past tasks return. Some have
# shuffled pixels and a random label. A random fifth of each class is held out, and only those
# images are scored.

# %%
images, labels = load_digits()
data = labelled(images.view(-1, 8, 8), labels)


def stream_of(seed):
    """The same digits in another order of classes."""
    return make_stream(data, "class", 5, blur=0.1, interference=0.05, ood=0.05, seed=seed)


print(stream_of(0).describe())

# %% [markdown]
# **One net, five ways to learn.** All train the same net in one pass, in batches of ten, and may
# store equally many numbers. The settings are those that `python -m nested.continual` found on
# other streams.
#
# - *fine-tuning* does nothing against forgetting.
# - *replay* stores examples, and rehearses some of them beside each batch.
# - *der++* also stores what the net answered when an example came, and holds the net to it.
# - *one copy* stores a slow copy of the weights and fewer examples. Every second batch the copy
#   moves a little towards the fast weights. They are held to its answers, and it answers.
# - *meta-learned* has such a copy, too. A level above chooses how fast each part of the net and of
#   the copy moves. It was taught by gradients through whole streams of printed characters.
#
# After each task we measure the accuracy on each task. Two numbers sum up this matrix. One is the
# mean accuracy at the end. The other says how much worse each task is at the end than at its best.

# %%
SETTINGS = {
    "fine-tuning": {"lr": 0.64},
    "replay": {"lr": 0.80, "weight": 0.84},
    "der++": {"lr": 0.74, "alpha": 0.33, "beta": 6.43},
    "one copy": {"lr": 1.22, "held": 0.175, "share": 0.089},
    "meta-learned": {"scale": 0.49, "follow": 0.87, "weight": 0.75},
}
results = {}
for name, settings in SETTINGS.items():
    results[name] = []
    for seed in range(SEEDS):
        stream = stream_of(seed)
        net = build_net(stream.shape, classes=10, width=WIDTH, seed=seed)
        strategy = STRATEGIES[name](net, budget=BUDGET, seed=seed, **settings)
        results[name].append(run(strategy, stream))

print(f"\nmean of {SEEDS} streams, and half of the 95 % interval")
print(f"{'':12}{'accuracy':>16}{'forgetting':>16}{'numbers stored':>16}")
for name, runs in results.items():
    cells = []
    for metric in (average_accuracy, forgetting):
        mean, half = interval([metric(result.matrix) for result in runs])
        cells.append(f"{mean:.2f} +- {half:.2f}")
    print(f"{name:12}{cells[0]:>16}{cells[1]:>16}{runs[0].numbers:>16,}")

# %% [markdown]
# **What the levels did.** The fast weights moved at each batch, and the slow copy at every second
# one. A level that waits is not idle: it answers at every moment.

# %%
moves = results["one copy"][0].moves
for level, counts in moves.items():
    print(f"{level:12}moved {counts[-1]} times")

# %%
figure, panels = new_figure(1, 5, width=2.3, height=2.6)
for name, axes in zip(results, panels[0]):
    mean = torch.stack([result.matrix for result in results[name]]).mean(0)
    axes.imshow(mean, cmap="Blues", vmin=0, vmax=1.2)
    for t, row in enumerate(mean.tolist()):
        for i, share in enumerate(row):
            colour = "white" if share > 0.7 else "black"
            axes.text(i, t, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(title=name, xlabel="accuracy on task", xticks=range(5), yticks=range(5))
panels[0][0].set(ylabel="after task")
figure.suptitle(
    "A slow copy of the weights forgets less: the first columns stay dark to the last row"
)
save_figure(figure, folder / "lesson_14.png")

# %% [markdown]
# **Answer.** A slow copy forgets less than replay and der++ for the same memory, and is as accurate
# ([thirty streams](results.md)). Fine-tuning knows the last task alone. Replay and der++ lose 0.06
# and 0.07 of each task, and the slow copy loses nothing. Its price is in the last cell: it knows
# the newest task later. The learned rule is the most accurate one, but forgets more.
#
# **Exercise.** Give the copy a longer clock: `"periods": (8,)` in the settings of "one copy". Which
# columns of its matrix get better, and which diagonal cells get worse? Why?
