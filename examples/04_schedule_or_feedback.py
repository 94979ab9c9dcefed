# %% [markdown]
# # 04. Schedule or feedback: does a learned rule react to its run? (20 s)
#
# The rule of lesson 03 beats the best constant rate. Perhaps it has only learned a *schedule*: the
# same rates for every run, high first and then low. Or it has learned *feedback*: it watches a run
# and sets its rate accordingly. How could one tell the two apart?

# %%
import os

import matplotlib.pyplot as plt
from torch import Generator

from nested import MetaConfig, MetaOptimizer, meta_train, race, unroll_tasks
from nested.meta.tuned import BASELINES
from nested.support.files import prepare_folder
from nested.support.plots import plain_log_scale, save_figure
from nested.tasks import Digits
from nested.tasks.stack import stack_batch, stack_init

HORIZON = 20  # inner steps raced
SEED = 0
CONFIG = MetaConfig(meta_steps=100, max_horizon=40, seed=SEED)
WORLDS = {"all images alike": (1.0, 1.0), "contrast from 1/3 to 3": (1 / 3, 3.0)}
PICTURES = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **Two tests.** The fair rival is a second rule, trained alike, that sees nothing but the *clock*:
# the number of the step. It can learn any schedule and no feedback. The second test is a *replay*:
# we average the rates of the first rule over all runs, and train with this average, blindly.
#
# **Two worlds.** In one all images have the same contrast, so runs are alike. In the other each
# task multiplies its images by a contrast from 1/3 to 3, so that runs differ.

# %%
rules, results = {}, {}
for world, contrast in WORLDS.items():
    family = Digits(contrast=contrast)
    rules[world] = {
        "sees the run": MetaOptimizer(),
        "sees the clock": MetaOptimizer(context=("log_step",)),
    }
    for rule in rules[world].values():
        meta_train(rule, family, CONFIG)
    constant = {"best constant": BASELINES["best constant"]}
    results[world] = race(rules[world], family, HORIZON, tasks=64, baselines=constant)

# %% [markdown]
# **The race.** All train the same 64 nets on held-out digits. The best constant is the best of 42
# pairs of rate and momentum. After each mean stands its standard error.

# %%
ENTRANTS = ("best constant", "sees the run, replayed", "sees the clock", "sees the run")
for world, result in results.items():
    print(f"{world}: mean loss over {HORIZON} steps, on held-out tasks")
    for name in ENTRANTS:
        mean, error = result.estimate(name)
        print(f"  {name:<22}  {mean:.3f} +- {error:.3f}")
    gain = result.gain("sees the run", "sees the clock")
    difference, error = result.paired("sees the run", "sees the clock")
    print(f"  feedback is worth {gain:.1%}: a difference of {difference:.2f} +- {error:.2f}")

# %% [markdown]
# **What does it do?** We run both rules on 16 held-out tasks and record the learning rates that
# they pick.

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.8), layout="constrained", sharey=True)
colours, scale = plt.get_cmap("viridis_r"), plt.matplotlib.colors.LogNorm(1 / 3, 3)
for axes, (world, contrast) in zip(panels, WORLDS.items()):
    generator = Generator().manual_seed(1)
    tasks = [Digits(contrast=contrast).held_out().sample(generator) for _ in range(16)]
    params = stack_init(tasks, generator)
    batches = [stack_batch(tasks, generator) for _ in range(HORIZON)]
    rates = {
        name: unroll_tasks(tasks[0].loss, params, batches, rule, differentiable=False).signals["lr"]
        for name, rule in rules[world].items()
    }  # (T, K) each
    for task, line in zip(tasks, rates["sees the run"]):
        axes.plot(line, color=colours(scale(task.contrast)), linewidth=1)
    axes.plot(rates["sees the clock"][0], "k--", linewidth=2, label="sees the clock")
    axes.set(xlabel="inner step", title=world, xticks=range(0, 21, 5))
plain_log_scale(panels[0])
panels[0].set_ylabel("learning rate")
panels[0].legend()
bar = figure.colorbar(plt.cm.ScalarMappable(scale, colours), ax=panels, label="contrast of a run")
bar.set_ticks([1 / 3, 0.5, 1, 2, 3], labels=["1/3", "1/2", "1", "2", "3"], minor=False)
bar.minorticks_off()
figure.suptitle("Where runs differ, the rule picks different rates for each")
save_figure(figure, PICTURES / "lesson_04.png")

# %% [markdown]
# **Answer.** It depends on the world that the rule learned in. Where runs are alike, a schedule is
# nearly all there is to learn, and the clock is almost enough. Where runs differ, the rule reads
# the contrast from loss and gradients, and picks larger rates for faint images (light lines). The
# replay flatters the rule: it is a weak rival, because nobody would choose an average of rates that
# fit single runs. Beating the best constant proves neither schedule nor feedback, for the clock
# does so too.
#
# **Exercise.** Which feature carries the feedback? Give `MetaOptimizer` the context
# `("log_step", "log_grad_norm")`, then `("log_step", "log_loss")`, and race both.
