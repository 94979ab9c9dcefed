"""Lesson 07. Fast weights: is linear attention gradient descent?

Ask. A matrix that learns while it reads takes one step on an objective of its own at each token.
Take -<M k, v>: is that linear attention? Take |M k - v|^2 / 2: what does the memory do better, when
a key comes again with another value? And how many pairs can 16 x 16 numbers hold?

Show. Run `python examples/07_fast_weights.py`; the picture is runs/lesson_07.png.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nested.memory import by_chunks
from nested.support.files import prepare_folder
from nested.support.plots import COLOURS, new_figure, save_figure

DIM, SAMPLES = 16, 64
PAIRS = (1, 2, 4, 8, 12, 16, 24, 32)
RULES = {"dot": "linear attention", "l2": "delta rule"}


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def read(keys: Tensor, values: Tensor, objective: str) -> tuple[Tensor, Tensor]:
    """The memory's reads at each key just after it was written, and the memory in the end."""
    ones = torch.ones(keys.shape[:2], dtype=keys.dtype)  # every rate is 1, and nothing is forgotten
    empty = keys.new_zeros(len(keys), DIM, DIM)
    return by_chunks(keys, values, keys, ones, 0 * ones, empty, objective, chunk=8)


def by_autograd(keys: Tensor, values: Tensor) -> Tensor:
    """Gradient descent at rate 1 on -<M k, v>, with no word of attention: the reads."""
    matrix, reads = torch.zeros(DIM, DIM, dtype=keys.dtype, requires_grad=True), []
    for k, v in zip(keys, values):
        (grad,) = torch.autograd.grad(-(matrix @ k) @ v, matrix)
        matrix = (matrix - grad).detach().requires_grad_()
        reads.append(matrix.detach() @ k)
    return torch.stack(reads)


def attention(keys: Tensor, values: Tensor) -> Tensor:
    """Attention without a softmax, y_t = sum over s <= t of (k_t . k_s) v_s: the reads."""
    return (keys @ keys.mT).tril() @ values


def error(pairs: int, objective: str, changes: bool) -> float:
    """How far off the last values are, by their size, of ``pairs`` keys read once; or read again
    with other values, half of them."""
    keys = normalize(draw(SAMPLES, pairs, DIM, seed=1), dim=-1)
    values, later = draw(SAMPLES, pairs, DIM, seed=2), draw(SAMPLES, pairs, DIM, seed=3)
    seen, said = keys, values
    if changes:
        half = pairs // 2 or 1
        seen, said = torch.cat([keys, keys[:, :half]], 1), torch.cat([values, later[:, :half]], 1)
        values = torch.cat([later[:, :half], values[:, half:]], dim=1)
    _, matrix = read(seen, said, objective)
    return ((keys @ matrix.mT - values).norm() / values.norm()).item()


def main(folder: Path = Path("runs")) -> dict[str, float]:
    keys, values = normalize(draw(1, 40, DIM, seed=1), dim=-1), draw(1, 40, DIM, seed=2)
    reads, _ = read(keys, values, "dot")
    descent = (reads[0] - by_autograd(keys[0], values[0])).abs().max().item()
    formula = (reads[0] - attention(keys[0], values[0])).abs().max().item()
    numbers = {"against gradient descent": descent, "against attention": formula}
    print(f"the memory on -<M k, v>, against gradient descent by autograd: {descent:.0e}")
    print(f"            ... and against attention without a softmax: {formula:.0e}\n")
    print(f"error of the last values, by pairs held in {DIM} x {DIM} numbers")
    print("".join(f"{pairs:>7}" for pairs in PAIRS))
    figure, (panels,) = new_figure(1, 2)
    for panel, changes in zip(panels, (False, True)):
        title = "half of the keys come again" if changes else "every key comes once"
        for colour, (objective, name) in zip(COLOURS, RULES.items()):
            found = [error(pairs, objective, changes) for pairs in PAIRS]
            numbers |= {f"{name}, {pairs} pairs, {title}": e for pairs, e in zip(PAIRS, found)}
            print("".join(f"{e:7.2f}" for e in found) + f"   {name}, {title}")
            panel.plot(PAIRS, found, label=name, color=colour, marker="o")
        panel.axvline(DIM, color="black", linestyle=":")
        panel.set_title(title, fontsize=9)
        panel.set(xlabel=f"pairs of keys and values (dotted: {DIM}, the width)", ylim=(0, 2.2))
    panels[0].set(ylabel="error of the last values, relative")
    panels[0].legend(fontsize=8)
    save_figure(figure, prepare_folder(folder) / "lesson_07.png")
    return numbers


# Answer. Linear attention is gradient descent on -<M k, v>, to the last digit: that objective never
# looks at what the memory says already, so that it adds the new value to the old one, and the error
# after a change is as large as the value. The delta rule steps on the error instead: what it said
# of that key goes, what it knows of other keys stays, as far as they differ. Neither can hold more
# independent pairs than the matrix is wide; on the way there crosstalk grows with the square root
# of pairs for the one, while the other, which corrects the last pair exactly, forgets the first.

if __name__ == "__main__":
    main()
