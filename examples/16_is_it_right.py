# %% [markdown]
# # 16. Is it right? How do you test your own rule, optimizer or memory? (20 s)
#
# You have written an update rule, an optimizer or a memory. It runs, and its loss goes down. Is it
# right? Below are three short programs, each with one wrong line. Can you see it in a loss curve?

# %%
import os
from functools import partial
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from torch import nn

from nested import MetaConfig, MetaOptimizer, meta_train
from nested.conformance import ConformanceError, check_memory, check_optimizer, check_update_rule
from nested.memory import LinearMemory
from nested.optim.base import MemoryOptimizer
from nested.support.files import prepare_folder
from nested.support.plots import save_figure
from nested.tasks import Digits

SEED = 0
PICTURES = prepare_folder(os.environ.get("NESTED_OUT", "runs"))
summary = {}  # {name: (both loss curves, their distance, checks that failed, checks that ran)}


def report(name, losses, check, broken, mended):
    # print where both loss curves end, and what ``check`` says of both versions
    ends = [sum(curve[-20:]) / 20 for curve in losses]
    print(f"{name}: loss {losses[0][0]:.2f} -> {ends[0]:.3f} broken, {ends[1]:.3f} mended")
    try:
        check(broken)
    except ConformanceError as error:
        faults = str(error).splitlines()[1:]  # one line for each check that failed
    count = len(check(mended))  # it raises an error if one of its checks fails
    print(f"  broken: {len(faults)} of {count} checks fail; mended: {count} of {count} checks pass")
    for line in faults:
        print(fill(line.strip(), 96, initial_indent="  - ", subsequent_indent="    "))
    summary[name] = losses, abs(ends[0] / ends[1] - 1), len(faults), count


# %% [markdown]
# **An update rule.** This is the rule of lesson 03 with a new line. The loss is only a number that
# the rule sees, so its author detaches it. The mended rule lacks the line. `check_update_rule` runs
# both on a small problem, and compares their hypergradients with finite differences.


# %%
class MyRule(MetaOptimizer):
    def forward(self, params, grads, state, loss):
        return super().forward(params, grads, state, loss.detach())


pair = MyRule, MetaOptimizer
config = MetaConfig(meta_steps=60, unroll_length=10, max_horizon=10, lr=0.01, seed=SEED)
histories = [meta_train(make(), Digits(), config) for make in pair]
losses = [[record.meta_loss for record in history.records] for history in histories]
report("update rule", losses, check_update_rule, MyRule(), MetaOptimizer())

# %% [markdown]
# Weights change the loss, and the loss changes the next rate. The hypergradient lacks this path.
# The rest of it is enough to lower the meta-loss.
#
# **An optimizer.** This is SGD with momentum, on a linear net that learns a sum of sines. Its
# velocities lie in a dictionary on `self`.


# %%
class MyOptimizer(MemoryOptimizer):
    def __init__(self, params, module=None):
        super().__init__(params, {"lr": 0.002, "momentum": 0.9})
        self.velocities = {}

    def slot(self, p):
        return self.velocities.setdefault(p, {})

    def move(self, group, params):
        for p in params:
            slot = self.slot(p)
            slot["velocity"] = group["momentum"] * slot.get("velocity", 0) + p.grad
            p.sub_(group["lr"] * slot["velocity"])


class MyOptimizerMended(MyOptimizer):
    def slot(self, p):
        return self.state[p]


def train(make_net, make_optimizer, loss_of, steps):
    torch.manual_seed(SEED)
    net, losses = make_net(), []
    optimizer = make_optimizer(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return net, losses


def loss_of_sines(net):
    x = torch.randn(32, 8)
    return (net(x) - x.sin().sum(dim=1, keepdim=True)).square().mean()


pair = MyOptimizer, MyOptimizerMended
runs = [train(partial(nn.Linear, 8, 1), make, loss_of_sines, 100) for make in pair]
report("optimizer", [losses for _, losses in runs], check_optimizer, *pair)

# %% [markdown]
# `state_dict` saves what lies in `self.state`, and nothing else. A run that is loaded from a file
# goes on without its velocities. No curve of an uninterrupted run can show that.
#
# **A memory.** It subtracts the mean of its keys (B, T, D), so that they overlap less. The mean
# should run over the width D. It runs over the tokens T, so each key depends on later tokens.
#
# A text is 48 random pairs of a key and a value, then the 48 keys alone. The memory should answer
# each key with its value. An answer of zeros has a loss of 1.


# %%
class MyMemory(LinearMemory):
    axis = 1

    def __init__(self, dim, chunk=64):
        super().__init__(dim, chunk=chunk)

    def project(self, x):
        keys, *others = super().project(x)
        return keys - keys.mean(self.axis, keepdim=True), *others


class MyMemoryMended(MyMemory):
    axis = 2


def loss_of_texts(memory, piece=96):
    pairs = torch.randn(32, 48, 48)  # 32 numbers of a key, 16 of a value
    text = torch.cat([pairs, pairs * (torch.arange(48) < 32)], dim=1)
    state, reads = None, []
    for part in text.split(piece, dim=1):  # unless ``piece`` is shorter, the whole text at once
        y, state = memory(part, state)
        reads.append(y)
    return (torch.cat(reads, dim=1)[:, 48:] - pairs)[..., 32:].square().mean()


pair, adam = (MyMemory, MyMemoryMended), partial(torch.optim.Adam, lr=0.003)
runs = [train(partial(make, 48), adam, loss_of_texts, 250) for make in pair]
report("memory", [losses for _, losses in runs], check_memory, *pair)
broken, mended = (loss_of_texts(memory, piece=1) for memory, _ in runs)
print(f"  read token by token: loss {broken:.2f} broken, {mended:.2f} mended")

# %%
_, gaps, failed, ran = zip(*summary.values())
print(f"losses at most {max(gaps):.1%} apart, and {sum(failed)} of {sum(ran)} checks fail")
figure, panels = plt.subplots(1, 3, figsize=(7.2, 3), layout="constrained")
for axes, (name, (losses, _, count, total)) in zip(panels, summary.items()):
    axes.plot(losses[1], color="C0", linewidth=4, alpha=0.5, label="mended")
    axes.plot(losses[0], color="C3", linewidth=1.2, label="broken")
    axes.set(title=f"{name}:\n{count} of {total} checks fail", xlabel="step", ylabel="loss")
panels[0].legend()
figure.suptitle("A loss curve does not show these three faults")
save_figure(figure, PICTURES / "lesson_16.png")

# %% [markdown]
# **Answer.** Run its conformance checks: they report all three faults within seconds. The broken
# runs end at most 0.9 % from the mended ones, and each of their curves could pass for right. The
# harm comes later: a wrong hypergradient, a run that cannot resume, a memory that is empty when it
# reads token by token. One wrong line can fail several checks, so mend one fault and run them all
# again.
#
# **Exercise.** Break the programs in other ways. Let `move` take its rate from `self.defaults`, or
# let `MyMemory` divide its keys by the number of tokens in `x`. Which checks fail?
