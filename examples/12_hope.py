# %% [markdown]
# # 12. HOPE: what does each part buy? (160 s)
#
# HOPE is a model whose blocks hold a memory that learns while it reads. Such a memory can add up
# what it reads, learn from its errors, or change its own learning rule. Each of these costs more
# time than the one before. What can it do that the cheaper one cannot?

# %%
import math
import os
import time
import warnings

import matplotlib.pyplot as plt
import torch
from torch import Generator, nn

from nested.memory import HardGate
from nested.models import Hope, ModelConfig, Transformer, decay_groups
from nested.support.files import prepare_folder
from nested.support.plots import save_figure
from nested.tasks import TASKS
from nested.tasks.text_task import scores

STEPS, RATE, DECAY = 500, 0.005, 1.0
TIMES = (1, 2, 4, 8)  # lengths of the test texts, in lengths of a training text
SEED = 0
folder = prepare_folder(os.environ.get("NESTED_OUT", "runs"))
warnings.filterwarnings("ignore", "texts of .* tokens end")  # the continuum does not move here

# %% [markdown]
# **Two tasks.** Both need a memory of everything that was read, and they need different ones.
#
# - *Parity* reads bits. After each bit it asks whether the number of ones so far is odd. To solve
#   it, a model keeps one bit of *state* and flips it at every one.
# - *Brackets* reads round and square brackets. The two kinds need not nest: `[ ( ] )` is allowed.
#   After each bracket it asks which may close now: none (0), a round one (1), a square one (2) or
#   either (3). To solve it, a model *counts* the open brackets of each kind.
#
# Texts of training have up to 24 tokens. Test texts are up to eight times as long.

# %%
tasks = {
    "parity": TASKS["groups"]["parity"](length=24, batch_size=32),
    "brackets": TASKS["languages"]["shuffle-2"](length=24, batch_size=32),
}
signs = {"parity": "01", "brackets": "()[]."}
for name, task in tasks.items():
    tokens, targets = task.batch(Generator().manual_seed(SEED))
    text = " ".join(signs[name][token] for token in tokens[0])
    answers = " ".join("-" if target < 0 else str(target) for target in targets[0].tolist())
    print(f"{name:9}reads {text}\n{'':9}wants {answers}")

# %% [markdown]
# **Six models**, all with two blocks of width 32. Their sizes differ, and are printed below. The
# first is a Transformer, and five are a `Hope` with a different memory in its blocks:
#
# - *sum*: a matrix that adds up value times key (linear attention, lesson 08);
# - *delta rule, rates to 1*: a matrix that learns from the error of its answer (lesson 08). Each
#   token chooses a learning rate. At a rate of 1 a write replaces what stood at its key. Many
#   models go no further;
# - *delta rule, rates to 2*: the same, and at a rate of 2 a write *reflects* what stood at its key:
#   from +1 to -1, and back;
# - *self-modifying*: a small net. Four more nets make its keys, values, rates and forgetting, and
#   these learn while they read, too: they move after every 8 tokens;
# - *sum, then delta*: one block of each.
#
# HOPE's continuum memory (lesson 09) stands in each block as well. Its period is longer than a text
# here, so it does not move. What it buys on long texts is in a
# [table of its own](../tests/benchmarks/README.md#does-continuum-memory-pay): nothing there.


# %%
def make_hope(vocab, chunk=32, **settings):
    return Hope(ModelConfig(vocab, 32, 2, heads=1, periods=(4096,), chunk=chunk, **settings))


def make_with_rates_to_1(vocab):
    model = make_hope(vocab, mixer="linear")
    for block in model.blocks:
        block.mixer.rate = HardGate(start=0.5, top=1.0)
    return model


models = {
    "Transformer": lambda vocab: Transformer(ModelConfig(vocab, 32, 2, heads=2)),
    "sum": lambda vocab: make_hope(vocab, mixer="linear", objective="dot"),
    "delta rule, rates to 1": make_with_rates_to_1,
    "delta rule, rates to 2": lambda vocab: make_hope(vocab, mixer="linear"),
    "self-modifying": lambda vocab: make_hope(vocab, mixer="selfmod", chunk=8),
    "sum, then delta": lambda vocab: make_hope(vocab, mixer="linear", objective=("dot", "l2")),
}

# %% [markdown]
# **Training** is the same for all models: AdamW, a warm-up, and a cosine. Weight decay acts on
# matrices, and on the gates by which a memory forgets. It does not act on the gates of rates,
# because it would pull them away from 2. Nor does it act on the first weights of these memories,
# which are learned, too.


# %%
def train(task, make_model):
    """Return the trained model, and the milliseconds of a step."""
    torch.manual_seed(SEED)
    model, generator = make_model(task.vocab), Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(decay_groups(model, DECAY))
    start = time.process_time()
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / 50) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        tokens, targets = task.batch(generator)
        optimizer.zero_grad()
        logits, _ = model(tokens)
        nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, (time.process_time() - start) / STEPS * 1000


@torch.no_grad()
def share_right(task, model, times):
    """The share of 128 texts, drawn apart from training, whose answers are all right."""
    generator, shares = Generator().manual_seed(7), []
    for _ in range(4):
        tokens, targets = task.batch(generator, "query", times * task.length)
        shares.append(scores(model(tokens)[0], targets)["whole"])
    return sum(shares) / len(shares)


shares, cost = {}, {}  # {(task, model): a share for each of TIMES}, {model: ms}
for model_name, make_model in models.items():
    for task_name, task in tasks.items():
        model, cost[model_name] = train(task, make_model)
        shares[task_name, model_name] = [share_right(task, model, times) for times in TIMES]

print("\nshare of texts answered without a mistake, of up to 24, 48, 96 and 192 tokens")
print(f"{'':24}{'parity':>14}{'brackets':>28}{'parameters':>24}")
for model_name, make_model in models.items():
    numbers = ["".join(f"{x:6.1f}" for x in shares[name, model_name]) for name in tasks]
    size = sum(p.numel() for p in make_model(tasks["parity"].vocab).parameters())
    print(f"{model_name:24}" + "    ".join([*numbers, f"{size:10,}"]))
slower = cost["self-modifying"] / cost["delta rule, rates to 2"]
slower = f"{slower:.1f} times as long as of the delta rule"
print(f"\nA step of the self-modifying memory takes {slower}.")

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.6, 4.2), layout="constrained", sharey=True)
styles = ["k:", "C0-", "C1:", "C1-", "C3-", "C2-"]
for task_name, panel in zip(tasks, axes):
    for model_name, style in zip(models, styles):
        lengths = [times * tasks[task_name].length for times in TIMES]
        wide = 3.5 if model_name == "sum, then delta" else 1.5
        panel.plot(lengths, shares[task_name, model_name], style, lw=wide, label=model_name)
    panel.set(title=task_name, xlabel="tokens of a test text", xscale="log")
    panel.set_xticks(lengths, lengths)
    panel.minorticks_off()
axes[0].set(ylabel="share of texts without a mistake")
figure.legend(*axes[0].get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=3)
figure.suptitle("One block that adds and one that corrects do both tasks")
save_figure(figure, folder / "lesson_12.png")

# %% [markdown]
# **Answer.** Once its rates reach 2, the delta rule tracks a state. Self-modifying memories track
# it as well, and a step of theirs takes about five times as long. A sum counts further, and
# cannot flip a bit. One block of each does both on texts of 48 tokens. At eight times the
# training length no model counts, neither after these 500 steps nor after 1,500
# ([table](../tests/benchmarks/README.md#what-memories-can-do)).
#
# **Exercise.** Swap the two blocks: `objective=("l2", "dot")`. At which length does each task get
# better, and at which worse?
