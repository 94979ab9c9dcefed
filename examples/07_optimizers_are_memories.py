# %% [markdown]
# # 07. Optimizers are memories: what does momentum remember? (90 s)
#
# A momentum buffer is a memory of gradients. How far back does it remember, and is that enough?
# We first watch what momentum and its relatives forget, and then train them on a stream of digits
# that is sorted by class, where forgetting hurts.

# %%
import math
import os
import sys

import matplotlib.pyplot as plt
import torch
from torch import Generator, nn

from nested import optim
from nested.support.files import prepare_folder
from nested.support.plots import save_figure
from nested.support.progress import Progress
from nested.tasks.digits import load_digits

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
TUNING_SEEDS, SEEDS = (100, 101), (0, 1, 2)
STEPS, BLOCK, ROWS = 300, 10, 32  # of a run; batches of one class in a row; images in a batch
PICTURES = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **A buffer is a memory**, because it solves a memory's problem. It should agree with the new
# gradient `g` and stay near its old value: minimise `-<m, g> + |m - 0.9 m_old|² / 2`. The
# derivative, `-g + m - 0.9 m_old`, is zero at `m = 0.9 m_old + g`, which is momentum. Adam solves a
# regression in the same way. A numerical minimiser, which knows neither formula, agrees.

# %%
torch.manual_seed(0)
for name, error in optim.read_as_memories(torch.randn(20, 5).double()).items():
    print(f"{name} and the minimiser of its objective differ by {error:.5f} of its size")

# %% [markdown]
# **The optimizers.** *Delta momentum* first erases what it stored under the same key, and the new
# gradient is the key. *Deep momentum* passes gradients through a small net. *Muon* brings all
# directions of its buffer to about the same size. *M3* adds Adam's denominator and a second, slow
# buffer that moves every 20 steps. *DGD* erases in the weights themselves. `NestedOptimizer` gives
# each part of a net a clock: here the first layer moves every 4 steps. Momentum is 0.9 where the
# name does not say 0.99.

# %%
SGD, Adam = torch.optim.SGD, torch.optim.Adam
F32 = {"ns_dtype": torch.float32}  # on every machine
MUON = {"slow_weight": 0, "second_moment": False, **F32}
OPTIMIZERS = {
    "DGD": lambda net, lr: optim.DGD(net.parameters(), lr, module=net),
    "momentum": lambda net, lr: SGD(net.parameters(), lr, momentum=0.9),
    "momentum 0.99": lambda net, lr: SGD(net.parameters(), lr, momentum=0.99),
    "deep momentum": lambda net, lr: optim.DeepMomentum(net.parameters(), lr),
    "delta momentum": lambda net, lr: optim.DeltaMomentum(net.parameters(), lr, unit_key=True),
    "Adam": lambda net, lr: Adam(net.parameters(), lr),
    "Adam, 2 clocks": lambda net, lr: optim.NestedOptimizer(
        optim.periods_by_depth(net, (4, 1)), lr=lr
    ),
    "Muon": lambda net, lr: optim.M3(net.parameters(), lr, **MUON),
    "Muon 0.99": lambda net, lr: optim.M3(net.parameters(), lr, betas=(0.99, 0.999), **MUON),
    "M3, fast only": lambda net, lr: optim.M3(net.parameters(), lr, slow_weight=0, **F32),
    "M3": lambda net, lr: optim.M3(net.parameters(), lr, **F32),
}

# %% [markdown]
# **The turn.** A linear layer gets the same gradient for 40 steps. Then another gradient comes, at
# a right angle to it, for the same inputs. We measure how much of each move still goes along the
# old gradient.


# %%
def share_of_old(name, same_inputs=True, turn=40, after=60):
    """The share of each move along the old gradient, from the last step before the turn on."""
    torch.manual_seed(0)
    net, along = nn.Linear(8, 8, bias=False), []
    nn.init.zeros_(net.weight)
    optimizer = OPTIMIZERS[name](net, 1e-3)
    errors, inputs = (torch.linalg.qr(torch.randn(8, 2))[0].T for _ in range(2))
    old = torch.outer(errors[0], inputs[0])  # the gradient before the turn
    for step in range(turn + after):
        before, now = net.weight.detach().clone(), int(step >= turn)
        optimizer.zero_grad()
        (net(inputs[0 if same_inputs else now]) @ errors[now]).backward()
        optimizer.step()
        along.append(((before - net.weight.detach()) * old).sum().item())
    return [share / along[turn - 1] for share in along[turn - 1 :]]


print("\nshare of a move along the old gradient, steps after the turn")
print(f"{'':16}same inputs:    5     20    other inputs:    5     20")
turns = {}
for name in ("momentum", "deep momentum", "delta momentum", "Adam", "Muon", "M3"):
    turns[name], other = share_of_old(name), share_of_old(name, same_inputs=False)
    row = (turns[name][5], turns[name][20], other[5], other[20])
    print("{:<26}{:7.2f}{:7.2f}{:21.2f}{:7.2f}".format(name, *row))

# %% [markdown]
# Momentum keeps 0.9 of the old direction at each step, whatever the inputs are. Delta momentum
# erases it at once for the same inputs, and keeps it for others: that is what a key does. Muon
# enlarges what is left. It brings sizes only near 1 (0.7 to 1.2), so its shares can exceed 1.
#
# **The stream.** Ten batches of one class follow ten of another, so a memory of ten steps knows one
# class. The score is the loss on unseen digits of all classes, a mean over the last round of ten
# classes. For each optimizer we choose the rate on other seeds, and check that the best rate is not
# an end of the grid.

# %%
images, labels = load_digits()
unseen = images[1200:], labels[1200:]


def train(name, lr, is_sorted, seed):
    """The loss on unseen digits after one run."""
    torch.manual_seed(seed)
    generator, losses = Generator().manual_seed(seed), []
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = OPTIMIZERS[name](net, lr)
    for step in range(STEPS):
        if step % (10 * BLOCK) == 0:
            order = torch.randperm(10, generator=generator)
        of_class = labels[:1200] == order[step // BLOCK % 10]
        pool = of_class.nonzero()[:, 0] if is_sorted else torch.arange(1200)
        rows = pool[torch.randint(len(pool), (ROWS,), generator=generator)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
        if step >= STEPS - 10 * BLOCK and step % BLOCK == BLOCK - 1:
            with torch.no_grad():
                losses.append(nn.functional.cross_entropy(net(unseen[0]), unseen[1]))
    return torch.stack(losses).mean().nan_to_num(nan=99.0).item()


results = {True: {}, False: {}}  # {is_sorted: {name: (rate, losses of SEEDS)}}
with Progress(2 * len(OPTIMIZERS), out=sys.stderr) as progress:
    for is_sorted, tuned in results.items():
        for name in OPTIMIZERS:
            scores = [sum(train(name, lr, is_sorted, s) for s in TUNING_SEEDS) for lr in RATES]
            best = scores.index(min(scores))
            assert 0 < best < len(RATES) - 1, f"{name}: widen RATES"
            tuned[name] = RATES[best], [train(name, RATES[best], is_sorted, s) for s in SEEDS]
            progress.show(len(results[True]) + len(results[False]), name)

print(f"\nloss on unseen digits, mean of {len(SEEDS)} seeds (lowest to highest), best rate")
print(f"{'':16}{'sorted by class':>24}{'rate':>8}{'random order':>26}{'rate':>8}")
for name in OPTIMIZERS:
    line = f"{name:<16}"
    for tuned in results.values():
        lr, losses = tuned[name]
        spread = f"{sum(losses) / len(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})"
        line += f"{spread:>26}{lr:8g}"
    print(line)

# %% [markdown]
# **Why DGD cannot learn this.** It makes each layer's outputs `z` equal `-dL/dz`. For logits under
# cross entropy that is `z = y - p`, with `y` one-hot and `p = softmax(z)`. With ten classes, the
# right logit is `1 - p`, the nine others are `-(1 - p) / 9`, so `p / ((1 - p) / 9)` equals
# `exp((1 - p) * 10 / 9)`. We solve for `p`.

# %%
p = 0.5
for _ in range(100):
    odds = math.exp((1 - p) * 10 / 9) / 9  # p / (1 - p)
    p = odds / (1 + odds)
print(f"\nDGD: the fixed point has p = {p:.3f} and a loss of {-math.log(p):.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.8), layout="constrained")
for name, style in {"momentum": "C1-", "delta momentum": "C2-", "M3": "C3-"}.items():
    left.plot(turns[name], style, label=name)
left.set(xlabel="steps after the turn", ylabel="share along the old gradient")
left.set_title("what is left of an old gradient", fontsize=11)
left.legend()
for row, (name, (_, losses)) in enumerate(results[True].items()):
    mean = sum(losses) / len(losses)
    error = [[mean - min(losses)], [max(losses) - mean]]
    is_muon = name.startswith(("M3", "Muon"))
    right.errorbar(mean, row, xerr=error, fmt="o", color="C3" if is_muon else "C0", capsize=3)
right.axvline(math.log(10), color="grey", linestyle=":")
right.text(math.log(10) - 0.02, -0.8, "knows nothing", color="grey", ha="right", va="center")
right.set_yticks(range(len(OPTIMIZERS)), list(OPTIMIZERS))
right.set(xlabel="loss on unseen digits, 3 seeds", ylim=(len(OPTIMIZERS) - 0.5, -1.4))
right.set_title("digits sorted by class", fontsize=11)
figure.suptitle("Momentum remembers ten steps; a longer memory pays with Muon and M3")
save_figure(figure, PICTURES / "lesson_07.png")

# %% [markdown]
# **Answer.** Momentum remembers about ten gradients, whatever inputs they came from. Delta momentum
# erases by inputs, and in random order that helps it. On the sorted stream a longer memory helps
# Muon most (momentum 0.99), but costs it much in random order. M3 keeps a fast and a slow memory:
# it learns part of the stream, and loses nothing in random order. No optimizer here learned the
# stream well.
#
# **Exercise.** Give M3 a slow buffer that moves every 5 steps, then every 100 (`period`). Which one
# suits a stream whose classes last 10 steps, and a whole round of classes 100?
