# %% [markdown]
# # 08. Fast weights: is linear attention gradient descent? (8 s)
#
# A matrix `M` reads pairs of a key `k` and a value `v`. It should answer `v` when it is asked `k`.
# So it learns while it reads: its *fast weights* take one step of gradient descent at each token.
# On which objective is that step linear attention, and what can such a memory hold?

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import Generator
from torch.nn.functional import normalize

from nested.memory import by_tokens
from nested.support.files import prepare_folder
from nested.support.plots import save_figure

DIM, SAMPLES = 16, 64  # D: M is D x D. B: each sample has its own matrix
PAIRS = (2, 4, 8, 12, 16, 20, 24, 32)
READINGS = 100
SEED = 0
folder = prepare_folder(os.environ.get("NESTED_OUT", "runs"))

# %% [markdown]
# **Gradient descent.** The objective `-<M k, v>` is low when the answer `M k` points along `v`. We
# ask autograd for its gradient at each token, and take a step with rate 1. Attention plays no part
# here.

# %%
generator = Generator().manual_seed(SEED)


def draw_pairs(pairs):
    """Keys of length 1 and values, (B, pairs, D) each."""
    keys, values = torch.randn(2, SAMPLES, pairs, DIM, generator=generator, dtype=torch.float64)
    return normalize(keys, dim=-1), values


keys, values = draw_pairs(40)
matrix, descent = torch.zeros(DIM, DIM, dtype=torch.float64, requires_grad=True), []
for k, v in zip(keys[0], values[0]):
    (gradient,) = torch.autograd.grad(-(matrix @ k) @ v, matrix)
    matrix = (matrix - gradient).detach().requires_grad_()
    descent.append((matrix @ k).detach())

# %% [markdown]
# **Attention without a softmax** reads all earlier tokens, and weighs their values:
#
# $$y_t = \sum_{s \le t} (k_t \cdot k_s)\, v_s .$$
#
# Here each token asks with its key. The sum needs no matrix, and no gradient.

# %%
attention = (keys[0] @ keys[0].T).tril() @ values[0]
difference = (torch.stack(descent) - attention).abs().max().item()
print(f"gradient descent on -<M k, v> and linear attention differ by {difference:.13f}")

# %% [markdown]
# The two are the same numbers. The gradient of `-<M k, v>` is `-v kᵀ`, so `M` is the sum of all
# `v kᵀ`.
#
# **The error.** That gradient does not depend on `M`: linear attention writes without reading its
# answer first. The *delta rule* reads first. It descends the squared error `|M k - v|² / 2`, so it
# writes only what is missing: `M <- M + (v - M k) kᵀ`. The package has both rules, token by token.


# %%
def read(keys, values, objective):
    """The matrix (B, D, D) after one reading of all tokens."""
    rates = torch.ones(keys.shape[:2], dtype=keys.dtype)
    _, matrix = by_tokens(
        keys=keys,
        values=values,
        queries=keys,
        rates=rates,
        log_kept=torch.zeros_like(rates),  # a logarithm: all of the old matrix is kept
        matrix=keys.new_zeros(len(keys), DIM, DIM),
        objective=objective,
    )
    return matrix


def error(matrix, keys, values):
    """The relative error of all answers: 0 is perfect, 1 is what an empty matrix gets."""
    return ((keys @ matrix.mT - values).norm() / values.norm()).item()


# %% [markdown]
# **How much fits?** Each memory reads a list of random pairs, and then answers all of them. It also
# reads the same list 100 times, as one long text. *Best matrix* is the least-squares solution:
# no matrix answers better. It is perfect for 16 pairs, because 16 random keys of 16 numbers are
# independent. Further keys are sums of those 16, so their answers are no longer free.

# %%
names = (
    "linear attention, 1 reading",
    f"linear attention, {READINGS} readings",
    "delta rule, 1 reading",
    f"delta rule, {READINGS} readings",
    "best matrix",
)
errors = {name: [] for name in names}
for pairs in PAIRS:
    keys, values = draw_pairs(pairs)
    again = [x.repeat(1, READINGS, 1) for x in (keys, values)]
    best = torch.linalg.pinv(keys) @ values  # (B, D, D), transposed
    matrices = (
        read(keys, values, "dot"),
        read(*again, "dot"),
        read(keys, values, "l2"),
        read(*again, "l2"),
        best.mT,
    )
    for name, matrix in zip(names, matrices):
        errors[name].append(error(matrix, keys, values))

print(f"\nrelative error of a {DIM} x {DIM} matrix, by number of pairs (1 = an empty matrix)")
print(" " * 30 + "".join(f"{pairs:7}" for pairs in PAIRS))
for name, row in errors.items():
    print(f"{name:<30}" + "".join(f"{value:7.2f}" for value in row))

# %%
figure, axes = plt.subplots(figsize=(7.2, 4), layout="constrained")
styles = {names[0]: "C0o-", names[2]: "C1o-", names[3]: "C3o-", names[4]: "k:"}
for name, style in styles.items():
    axes.plot(PAIRS, errors[name], style, label=name)
axes.axvline(DIM, color="grey", linewidth=1)
axes.text(DIM + 0.3, 1.35, f"{DIM} pairs: as many\nas the matrix is wide")
axes.set(xlabel="pairs to remember", ylabel="relative error of the answers", ylim=(0, 1.5))
axes.set_title("A matrix that learns from its errors is full at 16 pairs, its width")
axes.legend(loc="upper left")
save_figure(figure, folder / "lesson_08.png")

# %% [markdown]
# **Answer.** Yes: linear attention is gradient descent on `-<M k, v>`, to the last digit. That
# objective ignores what the matrix already answers, so overlapping keys disturb one another, and a
# second reading only doubles the answers. The delta rule descends the squared error, so each new
# reading repairs what other pairs have disturbed. After 100 readings it knows 8 pairs without an
# error and 16 with an error of 0.26, which more readings lower. Above 16, not even the best matrix
# knows them all.
#
# **Exercise.** Let half of the keys come again, with other values, and ask for the newest value of
# each key. Which of the two rules forgets the old values? What does a rate of 0.5 change?
