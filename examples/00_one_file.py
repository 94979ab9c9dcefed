# %% [markdown]
# # 00. Can gradient descent choose a learning rate? (15 s)
#
# You pick a learning rate by hand. But training is a differentiable program: run twenty steps, keep
# the graph, and ask how the losses depend on the rate of each step. Here a small net picks the rate
# and the momentum, and gradient descent trains that net. All of it is plain PyTorch.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import torch
from torch.nn.functional import cross_entropy

TASKS, STEPS, META_STEPS = 16, 20, 120
ROOT = Path(__file__).parents[1] if "__file__" in globals() else Path("..")
digits = numpy.load(ROOT / "nested/tasks/data/digits.npz")
images = torch.from_numpy(digits["images"]).float() / 16  # (1797, 64), from 0 to 1
labels = torch.from_numpy(digits["labels"]).long()  # (1797,), from 0 to 9

# %% [markdown]
# **A task** is to recognise handwritten digits. Each task shuffles the ten labels and multiplies
# the contrast by a factor from 1/3 to 3. So no single learning rate suits all tasks. T = 16 small
# nets, 64 - 32 - 10, train side by side, one on each task. The first 1,200 images serve for
# learning; the other 597 are held out for the test.


# %%
def draw_tasks(held_out):
    contrast = 3 ** torch.empty(TASKS, 1, 1).uniform_(-1, 1)
    shuffle = torch.stack([torch.randperm(10) for _ in range(TASKS)])  # (T, 10)

    def batch():
        low, high = (1200, 1797) if held_out else (0, 1200)
        rows = torch.randint(low, high, (TASKS, 32))  # (T, B)
        return images[rows] * contrast, shuffle.gather(1, labels[rows])  # (T, B, 64), (T, B)

    return batch


def draw_weights():
    sizes = [(64, 32, 1 / 8), (1, 32, 0), (32, 10, 1 / 6), (1, 10, 0)]
    return [(scale * torch.randn(TASKS, n, m)).requires_grad_() for n, m, scale in sizes]


def loss_of(w, inputs, targets):
    hidden = torch.relu(inputs @ w[0] + w[1])  # (T, B, 32)
    logits = hidden @ w[2] + w[3]  # (T, B, 10)
    return cross_entropy(logits.mT, targets, reduction="none").mean(1)  # (T,)


# %% [markdown]
# **Level 4** is a net of 98 numbers. It sees the loss, the length of the gradient and the step. It
# picks a learning rate from 0.001 to 10, on a logarithmic scale, and a momentum from 0 to 1.

# %%
torch.manual_seed(0)
level_4 = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))


def learned(loss, g, step):
    length = sum((x * x).sum((1, 2)) for x in g).sqrt()
    context = torch.stack([loss.log(), length.log(), torch.full_like(loss, step / 10 - 1)], dim=1)
    rate, momentum = level_4(context).sigmoid()[:, :, None, None].unbind(1)  # (T, 1, 1) each
    return 0.001 * 10_000**rate, momentum  # one of each for each net


# %% [markdown]
# **The loop.** The four levels are the four marked lines. Everything else in this course is a
# variation of them.


# %%
def train(choose, held_out=False):
    batch, w = draw_tasks(held_out), draw_weights()
    v = [torch.zeros_like(x) for x in w]
    losses = [loss_of(w, *batch())]  # level 1: a forward pass
    for step in range(STEPS):
        g = torch.autograd.grad(losses[-1].sum(), w, create_graph=True)
        lr, mu = choose(losses[-1], g, step)  # level 4: how the others move
        v = [mu * x + y for x, y in zip(v, g)]  # level 2: a momentum buffer
        w = [x - lr * y for x, y in zip(w, v)]  # level 3: the weights
        losses.append(loss_of(w, *batch()))
    return torch.stack(losses)  # (K + 1, T)


# %% [markdown]
# **A score** is the mean loss after each of the 20 steps, over 64 tasks. The nets train on the
# held-out images; level 4 itself never learned from them. The rival is the best constant rate and
# momentum out of 24 pairs, chosen on the images for learning.


# %%
def score(choose, held_out=True):
    torch.manual_seed(1)  # the same tasks for everybody
    curves = [train(choose, held_out).detach() for _ in range(4)]
    return torch.cat(curves, dim=1).mean(1)  # (K + 1,)


pairs = [(lr, mu) for lr in (0.1, 0.2, 0.3, 0.5) for mu in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)]
best = min(pairs, key=lambda pair: score(lambda *context: pair, held_out=False)[1:].mean())
curves = {"untrained": score(learned), "best constant": score(lambda *context: best)}

# %% [markdown]
# **Meta-training.** Each meta-step trains 16 new nets on new tasks. Their mean loss after each step
# is the *meta-loss*. One `backward()` goes back through 20 steps of training, into level 4. It
# gives the *hypergradient*: the gradient of the meta-loss with respect to the weights of level 4.

# %%
adam = torch.optim.Adam(level_4.parameters())
for meta_step in range(META_STEPS):
    adam.param_groups[0]["lr"] = 0.02 * (1 - meta_step / META_STEPS)
    meta_loss = train(learned)[1:].mean()
    adam.zero_grad()
    meta_loss.backward()
    torch.nn.utils.clip_grad_norm_(level_4.parameters(), 1.0)
    adam.step()
curves["learned"] = score(learned)

# %%
print("mean loss over 20 steps, on held-out tasks")
for name, curve in curves.items():
    print(f"  {name:<13}  {curve[1:].mean():.3f}")
print(f"best constant: rate {best[0]}, momentum {best[1]}")

figure, axes = plt.subplots(figsize=(7.2, 4), layout="constrained")
for name, curve in curves.items():
    axes.plot(curve, label=name, linewidth=3 if name == "learned" else 1.5)
axes.set(xlabel="training step", ylabel="loss on held-out tasks", xticks=range(0, 21, 5))
axes.set_title("The learned rule trains faster than the best constant rate")
axes.legend()
folder = Path(os.environ.get("NESTED_OUT", "runs"))
folder.mkdir(parents=True, exist_ok=True)
figure.savefig(folder / "lesson_00.png", dpi=110)

# %% [markdown]
# **Answer.** Yes. The gradient goes through the training steps as through the layers of a net.
# After 120 such gradients the small net trains other nets better than any constant rate of the grid
# does. Lesson 04 asks what it has learned: a fixed schedule, or to react to each run.
#
# **Exercise.** Hide the loss and the gradient from level 4: multiply `context` by
# `torch.tensor([0.0, 0.0, 1.0])`. It now sees a clock only. How much of the gain is left?
