# %% [markdown]
# # 01. One step: can a learning rate have a gradient? (3 s)
#
# A net makes one step of gradient descent. If the learning rate had been a little larger, would the
# loss after the step be lower or higher? Guess first: is there a formula for it?

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import Generator

from nested import slow_weights_step
from nested.support.files import prepare_folder
from nested.support.plots import save_figure
from nested.tasks import Digits

LR = 0.1
SEED = 0
PICTURES = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **One step.** The net, 64 - 32 - 10, sees 32 images of handwritten digits. Level 1, the forward
# pass, gives a loss. Level 3, the weights, moves against its gradient: `w <- w - lr g`. Level 2,
# the momentum buffer, does not matter yet, because it is empty before the first step.
#
# The step is judged by the loss on *fresh* images, which this package calls the query.
# `create_graph=True` keeps the computation of the gradient in the graph, so that PyTorch can
# differentiate through it.

# %%
generator = Generator().manual_seed(SEED)
task = Digits(dtype=torch.float64).sample(generator)
weights = {name: w.requires_grad_() for name, w in task.init(generator).items()}
batch, fresh = task.batch(generator), task.batch(generator, "query")

loss = task.loss(weights, batch)
grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
grads = dict(zip(weights, grads))


def after_one_step(lr):
    stepped = slow_weights_step(weights, grads, lr)  # w <- w - lr g
    return task.loss(stepped, fresh), stepped


# %% [markdown]
# **Way 1: autograd.** The learning rate is a tensor like any other, so we ask for its gradient. The
# derivative of a loss with respect to a setting of the training is called a *hypergradient*.

# %%
lr = torch.tensor(LR, dtype=torch.float64, requires_grad=True)
loss_after, stepped = after_one_step(lr)
(by_autograd,) = torch.autograd.grad(loss_after, lr, retain_graph=True)

# %% [markdown]
# **Way 2: by hand.** The new weights are `w1 = w0 - lr g0`, so they change by `-g0` per unit of the
# rate. The fresh loss changes by its gradient `g1` at `w1`, times that. The chain rule gives
#
# $$\frac{dL(w_1)}{d\,lr} = -\, g_1 \cdot g_0 .$$

# %%
grads_after = torch.autograd.grad(loss_after, list(stepped.values()))
by_hand = -sum((g1 * g0).sum() for g1, g0 in zip(grads_after, grads.values()))

# %% [markdown]
# **Way 3: finite differences.** Take the step twice, with a slightly higher and a slightly lower
# rate, and compare.

# %%
higher, lower = after_one_step(LR + 1e-5)[0], after_one_step(LR - 1e-5)[0]
by_difference = (higher - lower) / 2e-5

print(f"the hypergradient d loss / d lr at lr = {LR}")
print(f"  autograd           {by_autograd:+.8f}")
print(f"  by hand            {by_hand:+.8f}")
print(f"  finite difference  {by_difference:+.8f}")

# %% [markdown]
# **A number with a gradient can learn.** Here gradient descent moves the learning rate itself, at a
# rate of 1. It fits this one pair of batches; lesson 02 seeks a rate that suits many tasks.

# %%
path = [LR]
for _ in range(30):
    lr = torch.tensor(path[-1], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(after_one_step(lr)[0], lr)
    path.append(path[-1] - 1.0 * slope.item())

losses = [after_one_step(lr)[0].item() for lr in path]
print(f"learning rate {path[0]:.2f} -> {path[-1]:.2f}, loss {losses[0]:.3f} -> {losses[-1]:.3f}")

# %%
rates = torch.linspace(0, 1.2, 60, dtype=torch.float64)
figure, axes = plt.subplots(figsize=(7.2, 4), layout="constrained")
axes.plot(rates, [after_one_step(lr)[0].item() for lr in rates], label="loss after one step")
near = rates[rates < 0.5]
tangent = losses[0] + by_autograd.item() * (near - LR)
axes.plot(near, tangent, "--", label="its slope at 0.1, the hypergradient")
axes.plot(path, losses, "o", markersize=4, label="30 steps down the slope")
axes.set(xlabel="learning rate", ylabel="loss on fresh images")
axes.set_title("A learning rate has a gradient, and can follow it")
axes.legend()
save_figure(figure, PICTURES / "lesson_01.png")

# %% [markdown]
# **Answer.** Yes: the hypergradient is minus the inner product of two gradients. One is taken
# before the step on the training batch, the other after the step on fresh data. While the two point
# the same way, a larger rate is better. Gradient descent on the rate stops where they are at right
# angles.
#
# **Exercise.** Judge the step by `batch` instead of `fresh`. Does the best rate grow or shrink, and
# why?
