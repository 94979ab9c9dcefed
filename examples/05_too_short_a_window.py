# %% [markdown]
# # 05. Too short a window: what does level 4 not see? (25 s)
#
# Lesson 03 cut each run into windows and threw the graph away between them. A decision can pay in
# its own window, and cost in a later one. Does level 4 then still learn the best way to train? If
# not, in which direction is it wrong?

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import Generator, nn

from nested import Step, UpdateRule, detached, slow_weights_step, unroll_tasks
from nested.meta.baselines import draw_tasks
from nested.support.files import prepare_folder
from nested.support.plots import save_figure
from nested.tasks import Quadratics

STEPS, TASKS = 100, 128  # length of a run, and T
WINDOWS = (1, 5, 20, 100)  # K; the last one spans the whole run
EXPONENTS = torch.linspace(0.2, 1.4, 13).tolist()
PES_WINDOW, SIGMA, REPEATS = 5, 0.05, 16
SEED = 0
PICTURES = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **One number to learn**, the *decay exponent*. The learning rate decays as
# `0.8 / (1 + step / 5) ** exponent`. An exponent of 0 keeps the rate constant, and a large one
# lowers it soon. `takes_tasks` says that the rule moves T tasks at once: every tensor that it gets
# has a leading T.


# %%
class DecayRule(UpdateRule):
    """Gradient descent at a decaying rate. ``exponent`` is () or, one for each task, (T,)."""

    takes_tasks = True

    def __init__(self, exponent: torch.Tensor) -> None:
        super().__init__()
        self.exponent = nn.Parameter(exponent)

    def init(self, params):
        return {"step": next(iter(params.values())).new_zeros(())}

    def forward(self, params, grads, state, loss):
        lr = 0.8 * (1 + state["step"] / 5) ** -self.exponent  # (T,)
        return Step(slow_weights_step(params, grads, lr), {"step": state["step"] + 1}, {"lr": lr})


# %% [markdown]
# **The task** is a bowl with steep and flat sides. Each training batch shows its centre with strong
# noise. A large rate crosses the flat sides, and a small one averages the noise of the steep sides
# away. So the rate has to decrease, neither too soon nor too late.

# %%
family = Quadratics(dim=8, curvature=(0.01, 1.0), noise=1.0)
draw = draw_tasks(family, TASKS, STEPS, Generator().manual_seed(SEED))

# %% [markdown]
# **The truncated hypergradient** is the derivative of the mean loss of a run, as windows see it.
# Each window differentiates its own losses, and its effect on later windows is cut. As in lesson
# 03, the last update of a window is scored on the query, which shows the centre without noise.
# So windows of 1 give the mean loss of a run without noise.


# %%
def hypergradient(exponent, window):
    """Return d(mean loss) / d(exponent), truncated to windows, and the mean loss of the run."""
    rule, params, state = DecayRule(torch.tensor(exponent)), draw.params, None
    slope = mean_loss = 0.0
    for start in range(0, STEPS, window):
        batches = draw.batches[start : start + window]
        run = unroll_tasks(draw.loss_fn, params, batches, rule, state)
        after_last = torch.vmap(draw.loss_fn)(run.params, draw.query)  # (T,)
        loss = (run.losses[:, 1:].sum() + after_last.sum()) / (TASKS * STEPS)
        slope += torch.autograd.grad(loss, rule.exponent)[0].item()
        mean_loss += loss.item()
        params, state = detached((run.params, run.state))  # the cut
    return slope, mean_loss


def true_mean_loss(exponent):
    return hypergradient(exponent, 1)[1]


# %% [markdown]
# **PES**, persistent evolution strategies, differentiates nothing: it perturbs the exponent at
# random in each window, and correlates the losses with the perturbations. It sums each particle's
# perturbations over all earlier windows, so that a later window can still blame an earlier one.


# %%
def twice(x):
    return x.repeat_interleave(2, dim=0)  # the two of a pair share their task


def pes(exponent, generator):
    """Estimate d(mean loss) / d(exponent) from 2 T particles, in pairs of opposite noise."""
    params, query = {"w": twice(draw.params["w"])}, tuple(map(twice, draw.query))
    state, summed_noise, slope = None, torch.zeros(2 * TASKS), 0.0
    for start in range(0, STEPS, PES_WINDOW):
        noise = SIGMA * torch.randn(TASKS, generator=generator)
        noise = torch.stack([noise, -noise], dim=1).flatten()  # (2 T,)
        summed_noise = summed_noise + noise
        batches = [tuple(map(twice, batch)) for batch in draw.batches[start : start + PES_WINDOW]]
        rule = DecayRule(exponent + noise)
        run = unroll_tasks(draw.loss_fn, params, batches, rule, state, differentiable=False)
        after_last = torch.vmap(draw.loss_fn)(run.params, query)  # (2 T,)
        losses = (run.losses[:, 1:].sum(1) + after_last) / STEPS
        slope += (summed_noise * losses).mean().item() / SIGMA**2
        params, state = run.params, run.state
    return slope


# %% [markdown]
# **Where level 4 settles.** It goes downhill, so it comes to rest where the hypergradient that it
# sees crosses zero, from below to above.


# %%
def zero_crossing(slopes):
    i = next(i for i, slope in enumerate(slopes) if slope > 0)
    share = slopes[i - 1] / (slopes[i - 1] - slopes[i])
    return EXPONENTS[i - 1] + share * (EXPONENTS[i] - EXPONENTS[i - 1])


slopes = {f"windows of {K}": [hypergradient(x, K)[0] for x in EXPONENTS] for K in WINDOWS}
generator = Generator().manual_seed(SEED)
slopes["PES, windows of 5"] = [
    sum(pes(x, generator) for _ in range(REPEATS)) / REPEATS for x in EXPONENTS
]
settled = {name: zero_crossing(values) for name, values in slopes.items()}

best = true_mean_loss(settled["windows of 100"])
for name, exponent in settled.items():
    loss = true_mean_loss(exponent)
    print(
        f"{name:<17}  exponent {exponent:.2f}  mean loss {loss:.3f}  {loss / best:.2f} of the best"
    )

# %%
figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(7.2, 5.6), layout="constrained", sharex=True, height_ratios=(3, 2)
)
for (name, values), colour in zip(slopes.items(), ["C0", "C1", "C2", "C3", "black"]):
    style = "o" if "PES" in name else "-"
    top.plot(EXPONENTS, values, style, color=colour, label=name, markersize=4)
    if "PES" not in name:
        top.plot(settled[name], 0, "D", color=colour)
        for axes in (top, bottom):
            axes.axvline(settled[name], color=colour, linestyle=":")
top.axhline(0, color="grey", linewidth=1)
top.set(ylabel="hypergradient", ylim=(-0.06, 0.06))
top.legend(loc="upper left")
bottom.plot(EXPONENTS, [true_mean_loss(x) for x in EXPONENTS], color="black")
bottom.set(xlabel="decay exponent", ylabel="mean loss of a run")
top.set_title("Short windows lower the learning rate too soon")
save_figure(figure, PICTURES / "lesson_05.png")

# %% [markdown]
# **Answer.** Short windows choose too large an exponent: they lower the rate too soon. In a short
# window a small rate pays at once, because it averages the noise of the steep sides away. That the
# flat sides are then never crossed shows in later windows only, and the cut removes those from the
# hypergradient. Longer windows help, and cost memory. PES sees windows of 5 only, yet finds the
# exponent of the whole run, because it remembers its perturbations.
#
# **Exercise.** Leave out the memory of PES: multiply the losses by `noise` instead of
# `summed_noise`. Where does level 4 settle now, and which line of the picture does that match?
