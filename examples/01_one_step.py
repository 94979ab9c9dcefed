"""Lesson 01. One step: can a learning rate have a gradient?

Ask. A net makes one step of momentum SGD. Had the learning rate been a little larger, would the
loss after the step be lower or higher? Guess first: is there a formula for it?

Show. Run `python examples/01_one_step.py`; the picture is runs/lesson_01.png.
"""

from pathlib import Path

import torch
from torch import Generator

from nested import momentum_step, slow_weights_step
from nested.support.files import prepare_folder
from nested.support.plots import new_figure, save_figure
from nested.tasks import Digits


def main(folder: Path = Path("runs")) -> dict[str, float]:
    generator = Generator().manual_seed(0)
    task = Digits(dtype=torch.float64).sample(generator)
    weights = {name: w.requires_grad_() for name, w in task.init(generator).items()}
    batch, fresh = task.batch(generator), task.batch(generator, "query")

    def loss_after_one_step(lr):
        loss = task.loss(weights, batch)  # level 1
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        grads = dict(zip(weights, grads))
        buffer = {name: torch.zeros_like(g) for name, g in grads.items()}
        buffer = momentum_step(buffer, grads, momentum=0.5)  # level 2: v <- mu v + g
        moved = slow_weights_step(weights, buffer, lr)  # level 3: w <- w - lr v
        return task.loss(moved, fresh), moved, grads

    # Way 1: the learning rate is a tensor like any other, so ask autograd.
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    loss, moved, grads = loss_after_one_step(lr)
    (by_autograd,) = torch.autograd.grad(loss, lr, retain_graph=True)

    # Way 2: the chain rule. w1 = w0 - lr g0, so d loss(w1) / d lr = - g1 . g0: two gradients agree?
    after = torch.autograd.grad(loss, list(moved.values()))
    by_hand = -sum((g1 * g0).sum() for g1, g0 in zip(after, grads.values()))

    # Way 3: wiggle it.
    higher, lower = (loss_after_one_step(lr.detach() + wiggle)[0] for wiggle in (1e-5, -1e-5))
    by_wiggling = (higher - lower) / 2e-5

    print("d loss / d lr at lr 0.1 (the hypergradient)")
    for way, value in (("autograd", by_autograd), ("by hand", by_hand), ("wiggling", by_wiggling)):
        print(f"  {way:<9} {value.item():+.8f}")

    # A learning rate with a gradient can learn: gradient descent on log lr, with rate 20, 30 times.
    path = [lr.item()]
    for _ in range(30):
        lr = torch.tensor(path[-1], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss_after_one_step(lr)[0], lr)
        path.append(path[-1] * torch.exp(-20 * slope * path[-1]).item())
    losses = [loss_after_one_step(torch.tensor(x, dtype=torch.float64))[0].item() for x in path]
    print(
        f"learning rate {path[0]:.2f} -> {path[-1]:.2f}, loss {losses[0]:.3f} -> {losses[-1]:.3f}"
    )

    draw(folder, loss_after_one_step, path, losses, by_autograd.item())
    return {
        "autograd": by_autograd.item(),
        "by_hand": by_hand.item(),
        "wiggling": by_wiggling.item(),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "last_lr": path[-1],
    }


def draw(folder, loss_after_one_step, path, losses, slope):
    rates = torch.logspace(-2, 1, 60, dtype=torch.float64)
    values = [loss_after_one_step(rate)[0].item() for rate in rates]
    figure, ((axes,),) = new_figure(1, 1, width=6)
    axes.plot(rates, values, label="loss after one step")
    near = torch.linspace(0.02, 0.5, 50)  # straight in lr, so curved on a log axis
    axes.plot(near, losses[0] + slope * (near - path[0]), "--", label="the hypergradient at 0.1")
    axes.plot(path, losses, "o-", ms=3, lw=0.8, label="30 steps down it")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss on fresh images", ylim=(2.2, 2.5))
    axes.set_title("A learning rate has a gradient")
    axes.legend()
    save_figure(figure, prepare_folder(folder) / "lesson_01.png")


# Answer. Yes: it is minus the product of the gradient before the step and the one after it. While
# the two agree, a larger learning rate is better. Lesson 02 looks further ahead than one step.

if __name__ == "__main__":
    main()
