# %% [markdown]
# # 02. K steps: what changes when a learning rate looks further ahead? (10 s)
#
# Lesson 01 asked for the best learning rate for one step. Is the best one for 30 steps smaller,
# larger, or the same?

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import Generator, nn

from nested import Step, UpdateRule, slow_weights_step, unroll_tasks
from nested.support.files import prepare_folder
from nested.support.plots import save_figure
from nested.tasks import Quadratics
from nested.tasks.stack import stack_batch, stack_init

STEPS = (1, 3, 10, 30)  # K
TASKS, META_STEPS = 200, 80
FLAT, STEEP = 0.03, 3.0  # curvatures
SEED = 0
PICTURES = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **The task** is a bowl in eight dimensions, where every step can be computed by hand. Its loss is
# `1/2 (w - c)^T A (w - c)`. Along each eigenvector of `A` the bowl has a curvature, between 0.03
# (flat) and 3 (steep). Each of T = 200 tasks draws other directions, curvatures and centres.

# %%
generator = Generator().manual_seed(SEED)
family = Quadratics(curvature=(FLAT, STEEP), noise=0.0)
tasks = [family.sample(generator) for _ in range(TASKS)]
start = stack_init(tasks, generator)  # {"w": (T, 8)}
bowl = stack_batch(tasks, generator)  # A (T, 8, 8) and c (T, 8), the same at every step

# %% [markdown]
# **The smallest level 4.** An `UpdateRule` decides how the weights move. It gets the weights, their
# gradients, its own state and the loss. It returns the next weights, its next state and the
# *signals* it chose, to be recorded. This rule holds one number, the logarithm of a learning rate.
# The logarithm keeps the rate positive.


# %%
class ConstantRule(UpdateRule):
    """Gradient descent at one learning rate, which can learn."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.log_lr = nn.Parameter(torch.tensor(lr).log())

    def init(self, params):
        return {}  # nothing to remember from step to step

    def forward(self, params, grads, state, loss):
        lr = self.log_lr.exp()
        return Step(slow_weights_step(params, grads, lr), state, {"lr": lr})


# %% [markdown]
# **To unroll** is to make K steps and keep their graph. `unroll(loss_fn, params, batches, rule)`
# does so for one task, and `unroll_tasks` for T tasks at once: every tensor then has a leading T.
# The tasks of a family share one loss. Then `backward()` gives the hypergradient of the loss
# *after* the K steps, and Adam follows it. The logarithm of the loss has the same minimum, and
# gradients of similar size for every K. We start at a small rate: beyond the stable range losses
# grow at every step, and after 30 steps the hypergradient is too large to follow.

# %%
best = {}
for steps in STEPS:
    rule = ConstantRule(0.1)
    adam = torch.optim.Adam(rule.parameters(), betas=(0.5, 0.9))
    for meta_step in range(META_STEPS):
        adam.param_groups[0]["lr"] = 0.05 * (1 - meta_step / META_STEPS)
        run = unroll_tasks(tasks[0].loss, start, [bowl] * steps, rule)
        final_loss = torch.vmap(tasks[0].loss)(run.params, bowl).mean()
        adam.zero_grad()
        final_loss.log().backward()
        adam.step()
    best[steps] = rule.log_lr.exp().item()
    print(f"K = {steps:>2}: hypergradients find the rate {best[steps]:.3f}")

# %% [markdown]
# **By hand.** Let $\eta$ be the learning rate. Along an eigenvector of curvature $\lambda$, each
# step multiplies the distance to the centre by $1 - \eta\lambda$. After K steps the factor is
# $(1 - \eta\lambda)^K$. It shrinks only while $\eta < 2 / \lambda$, so the steepest side sets a
# *stability edge* at $2 / \lambda_{max}$. The curves of the picture come from this formula alone.

# %%
curvatures, directions = torch.linalg.eigh(bowl[0])  # (T, 8) and (T, 8, 8)
distances = torch.einsum("tij,ti->tj", directions, start["w"] - bowl[1])  # along each direction


def loss_by_hand(lr, steps):
    left = distances * (1 - lr * curvatures) ** steps
    return (0.5 * curvatures * left**2).sum(1).mean().item()


edge = 2 / curvatures.max().item()
print(f"stability edge, 2 / largest curvature: {edge:.3f}")

# %%
figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
rates = torch.linspace(0.3, 0.75, 200).tolist()
for steps in STEPS:
    losses = [loss_by_hand(lr, steps) for lr in rates]
    (line,) = axes.plot(rates, losses, label=f"K = {steps}")
    axes.plot(best[steps], loss_by_hand(best[steps], steps), "o", color=line.get_color())
axes.axvline(edge, color="grey", linestyle="--", label=r"edge: $2/\lambda_{max}$")
axes.set(yscale="log", ylim=(0.01, 20), xlabel="learning rate", ylabel="loss after K steps")
axes.set_title("The further ahead, the closer the best rate (dot) comes to the edge")
axes.legend(loc="upper left", ncols=2)
save_figure(figure, PICTURES / "lesson_02.png")

# %% [markdown]
# **Answer.** Larger. One step can win only in the steep directions, which want a rate near
# $1 / \lambda_{max}$. With more steps the steep directions shrink anyway, and the flat ones, which
# want large rates, decide. The best rate comes close to the stability edge, and stays below it:
# beyond it the steep directions explode.
#
# **Exercise.** Give the rule a momentum buffer: `init` returns zeros, and `forward` calls
# `nested.momentum_step` with a momentum of 0.5. The stability edge is then at
# $2 (1 + 0.5) / \lambda_{max}$. Does the best rate follow it, up to K = 100?
