# %% [markdown]
# # 06. A rule per coordinate: can it beat Adam? (35 s)
#
# So far level 4 chose one learning rate for all weights. Adam does more: it scales each weight's
# step by that weight's own gradients. Can a learned rule do this better than the formula that a
# person wrote, on tasks that it never saw? And does a lower training loss help on unseen data?

# %%
import os
import sys

import matplotlib.pyplot as plt
import torch
from torch import nn

from nested import race
from nested.meta.baselines import smoothed
from nested.meta.speed_up import final_loss, speed_up
from nested.meta.tuned import TUNED
from nested.rules import LearnedOptimizer, load_rule
from nested.rules.features import DIRECTIONS
from nested.support.files import prepare_folder
from nested.support.plots import COLOURS, plain_log_scale, save_figure
from nested.support.progress import Progress
from nested.tasks import Digits
from nested.tasks.digits import load_digits

RULE = "learned rule"
TASKS, TUNING_TASKS = 64, 16  # raced on; to tune Adam on
SEED = 0
PICTURES = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **The rule.** Weights `w` of one layer move by `w - lr * d / rms(d)`, and `d` blends known
# directions `d_j`:
#
# - `d = sum_j (c_j + mix_j) d_j`, where each weight has a blend of its own.
# - One small net sees features of the layer and of time. It returns `lr` and all `c_j`.
# - Another small net sees features of one weight and returns its `mix_j`.
#
# Both nets were meta-trained on small nets that classify digits, through windows of 10 steps. The
# rule also knows the length of the run. It comes with the package.

# %%
rule = load_rule()
print(f"the rule has {sum(p.numel() for p in rule.parameters())} numbers and blends:")
print("\n".join(f"  {name}" for name in DIRECTIONS))

# %% [markdown]
# **As an optimizer.** `LearnedOptimizer` is a `torch.optim.Optimizer`. It replaces Adam in any
# loop, and has no learning rate to set. It needs the number of steps.

# %%
torch.manual_seed(SEED)
images, labels = load_digits()
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = LearnedOptimizer.from_pretrained(params=net.parameters(), total_steps=200)
for _ in range(200):
    rows = torch.randint(1200, (32,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
    optimizer.step()
right = (net(images[1200:]).argmax(1) == labels[1200:]).float().mean()
print(f"\nafter 200 steps it names {right:.1%} of 597 unseen digits")

# %% [markdown]
# **The race.** Adam gets the best of 60 settings for this length of run, constant rates and cosine
# schedules. The *speed-up* says how many times sooner the rule reaches the training loss that Adam
# ends with. The unseen loss is on images that the run did not train on. The last race is far from
# home: its nets are four times wider than those of meta-training.

# %%
RACES = {
    "20 steps": (Digits(), 20),
    "100 steps": (Digits(), 100),
    "100 steps, nets 4 times wider": (Digits(hidden=128), 100),
}
results = {}
with Progress(3 * len(RACES), out=sys.stderr) as progress:  # tune Adam, race the rule, race Adam
    for title, (family, steps) in RACES.items():
        done = iter(range(3 * len(results), 3 * len(RACES)))
        results[title] = result = race(
            {RULE: rule},
            family,
            steps,
            tasks=TASKS,
            seed=SEED,
            tuning_tasks=TUNING_TASKS,
            baselines={"Adam": TUNED["Adam"]},
            tuned_for="final",
            on_entry=lambda text: progress.show(next(done), text),
        )
        factor = speed_up(result, RULE, "Adam")
        print(f"\n{title}: {factor.value:.1f} times as fast as Adam in training")
        print(f"  (95 % of resampled tasks: {factor.low:.1f} to {factor.high:.1f})")
        for name in (RULE, "Adam"):
            unseen, error = result.estimate(name, "final")
            print(f"  {name:<13} training loss {final_loss(result, name):.2f}", end="")
            print(f"   unseen loss {unseen:.2f} +- {error:.2f}")

# %% [markdown]
# **Why it is fast at lengths that it never learned at.** The rule knows which share of the run is
# done, and takes smaller and smaller steps. It learned how small they should be.

# %%
for title, steps in (("20 steps", 20), ("100 steps", 100)):
    sizes = results[title].entries[RULE].signals["lr"].mean(0)  # (K, tensors)
    first, last = sizes[0], sizes[-1]
    weights, biases = (f"{first[i]:.3f} to {last[i]:.4f}" for i in (0, 1))
    print(f"\nroot mean square of a step, first layer, {title}:")
    print(f"  weights from {weights}, biases from {biases}", end="")
print()

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.8), layout="constrained", sharey=True)
for axes, (title, result) in zip(panels, list(results.items())[1:]):
    for name, colour in zip((RULE, "Adam"), COLOURS):
        mean, error = result.curve(name)  # (K + 1,) each; the last loss is the unseen one
        axes.plot(smoothed(mean[:-1]), color=colour, label=name, linewidth=2.5 - (name != RULE))
        axes.errorbar(105, mean[-1], error[-1], fmt="D", color=colour, clip_on=False)
    axes.set_title("nets 4 times wider" if "wider" in title else "nets as in meta-training")
    axes.set(xlabel="inner step (diamonds: unseen)", ylim=(0.002, 4), xticks=range(0, 101, 20))
panels[0].set_ylabel("training loss, smoothed")
plain_log_scale(panels[0])
panels[0].legend()
figure.suptitle("The rule trains faster than tuned Adam, but does not generalise better")
save_figure(figure, PICTURES / "lesson_06.png")

# %% [markdown]
# **Answer.** In training, yes: at home the rule is at least 2.5 times as fast as tuned Adam in 20
# steps, and 3 times in 100 ([three seeds](results.md)). On unseen digits it is ahead after 20 steps
# and level after 100. On wider nets it still trains faster, and *overfits*: its unseen loss is
# several times Adam's. Its meta-loss scored training batches, so nothing taught it to generalise. A
# step also costs many times Adam's, and on bowls, which it never saw, the rule fails.
#
# **Exercise.** Add `"500 steps": (Digits(), 500)` to the races (some minutes), and race
# `TUNED["Muon"]` beside Adam. Who is ahead now, in training and on unseen digits?
