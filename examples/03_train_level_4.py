# %% [markdown]
# # 03. What does it take to train level 4? (15 s)
#
# Lesson 02 learned one number, and kept the graph of a whole run. Here level 4 is a net, and runs
# are longer than the graph we want to keep. We write meta-training by hand, in about 40 lines. Then
# `meta_train` does it in one call, with the same numbers.

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Generator

from nested import MetaConfig, MetaOptimizer, detached, meta_train, race, unroll_tasks
from nested.support.files import prepare_folder
from nested.support.plots import save_figure
from nested.tasks import Digits
from nested.tasks.stack import stack_batch, stack_init

META_STEPS = 100  # updates of level 4
WINDOW = 10  # K: inner steps in a window
MAX_HORIZON = 40  # inner steps of the longest run
TASKS = 16  # T: nets that train side by side
META_LR, WEIGHT_DECAY, CLIP = 0.03, 1e-4, 1.0
SEED = 0
PICTURES = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **Level 4** is a `MetaOptimizer`: a net of 114 numbers. At every inner step it sees the loss, the
# step and the gradients, and picks a learning rate and a momentum. The tasks are those of lesson
# 00: digits whose labels are shuffled and whose contrast differs.
#
# **A run** is the training of one net, from its first step to its *horizon*. T runs start together,
# each with a task and first weights of its own. Their horizon is random, so that level 4 meets
# early and late parts of training in one mixture.

# %%
generator = Generator().manual_seed(SEED)
family = Digits()
rule = MetaOptimizer()


def start_runs():
    tasks = [family.sample(generator) for _ in range(TASKS)]
    windows = torch.randint(1, MAX_HORIZON // WINDOW + 1, (), generator=generator).item()
    return tasks, stack_init(tasks, generator), windows * WINDOW


# %% [markdown]
# **A window** is K inner steps whose graph we keep. Its *meta-loss* is the mean loss after each of
# the K updates. `run.losses[:, k]` was taken *before* update k, so it scores the updates before it.
# Nothing in `run.losses` scores the last update. We score it on a fresh batch, the query.


# %%
def unroll_window(tasks, params, state):
    loss_fn = tasks[0].loss  # the tasks of a family share one loss
    batches = [stack_batch(tasks, generator) for _ in range(WINDOW)]
    query = stack_batch(tasks, generator, "query")
    run = unroll_tasks(loss_fn, params, batches, rule, state)
    after_last = torch.vmap(loss_fn)(run.params, query)  # (T,)
    after_each = torch.cat([run.losses[:, 1:], after_last[:, None]], dim=1)  # (T, K)
    return after_each.mean(), run


# %% [markdown]
# **A meta-step** is one update of level 4, by the hypergradient of one window. Four things make it
# work:
# - *Clipping.* A few hypergradients are far longer than the others. They are cut to length 1.
# - *AdamW* with a rate that decreases along a cosine, as for any other net.
# - *Carried runs.* The next window starts where this one ended, so that level 4 also learns what to
#   do late in a run.
# - *Detaching.* The weights are carried on as plain numbers. The graph, and with it the memory, is
#   never longer than a window. Lesson 05 shows what this costs.

# %%
adamw = torch.optim.AdamW(rule.parameters(), lr=META_LR, weight_decay=WEIGHT_DECAY)
meta_losses, made_before = [], []
horizon = steps_made = 0
for meta_step in range(META_STEPS):
    if steps_made == horizon:  # all runs have ended
        tasks, params, horizon = start_runs()
        state, steps_made = None, 0
    cosine = 0.5 * (1 + math.cos(math.pi * meta_step / META_STEPS))
    adamw.param_groups[0]["lr"] = META_LR * (0.05 + 0.95 * cosine)

    meta_loss, run = unroll_window(tasks, params, state)
    adamw.zero_grad()
    meta_loss.backward()  # the hypergradient
    torch.nn.utils.clip_grad_norm_(rule.parameters(), CLIP)
    adamw.step()

    meta_losses.append(meta_loss.item())
    made_before.append(steps_made)
    params, state = detached((run.params, run.state))
    steps_made += WINDOW

# %% [markdown]
# **In one call.** `meta_train` draws the same random numbers in the same order.

# %%
same_rule = MetaOptimizer()
config = MetaConfig(
    meta_steps=META_STEPS,
    unroll_length=WINDOW,
    max_horizon=MAX_HORIZON,
    tasks=TASKS,
    seed=SEED,
)
history = meta_train(same_rule, family, config)

apart = max(abs(a - record.meta_loss) for a, record in zip(meta_losses, history.records))
assert apart < 1e-4 and [record.inner_step for record in history.records] == made_before
print(f"{META_STEPS} meta-losses, by hand and by meta_train: they differ by {apart:.4f} at most")

# %% [markdown]
# **Was it worth it?** `race` trains 64 nets on held-out tasks, with new images and new shuffles.

# %%
untrained = MetaOptimizer()
result = race({"untrained": untrained, "learned": rule}, family, 20, tasks=64, baselines={})
print("mean loss over 20 steps, on held-out tasks")
for name in ("untrained", "learned"):
    print(f"  {name:<9}  {result.estimate(name).mean:.3f}")

# %%
figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
colours = plt.get_cmap("viridis_r")
begins = [i for i, steps in enumerate(made_before) if steps == 0]
for begin, end in zip(begins, [*begins[1:], META_STEPS]):
    windows = [steps // WINDOW + 1 for steps in made_before[begin:end]]
    axes.plot(windows, meta_losses[begin:end], "o-", color=colours(begin / META_STEPS))
scale = plt.cm.ScalarMappable(plt.Normalize(0, META_STEPS), colours)
figure.colorbar(scale, ax=axes, label="meta-step at which the runs began")
axes.set(xlabel="window of the run (10 inner steps each)", ylabel="meta-loss", xticks=range(1, 5))
axes.set_title("Runs that begin late in meta-training (dark) learn faster")
save_figure(figure, PICTURES / "lesson_03.png")

# %% [markdown]
# **Answer.** A loop around lesson 02. It unrolls a window, scores every update in it, follows the
# clipped hypergradient, and carries the runs on without their graph. A hundred meta-steps are
# enough to beat the untrained rule by far. `meta_train` is this loop, with checkpoints and checks
# around it.
#
# **Exercise.** Race for 100 steps instead of 20. Then do not carry runs on, with
# `MAX_HORIZON = WINDOW`, and race again. What has the rule not learned?
