"""Lesson 06. Optimizers are memories: what does momentum remember?

Ask. A momentum buffer is a memory of gradients. Half-way through a run, the gradients turn: how
long does each optimizer go on in the old direction? Does it matter whether the new gradients come
with the same inputs, or with others? And who gains by remembering: on a stream in random order, and
on one sorted by class, where what comes next is never what came last?

Show. Run `python examples/06_optimizers_are_memories.py`; the picture is runs/lesson_06.png.
"""

import math
from pathlib import Path

import torch
from torch import Generator, nn

from nested.optim import DGD, M3, DeepMomentum, DeltaMomentum, read_as_memories
from nested.support.files import prepare_folder
from nested.support.plots import COLOURS, new_figure, save_figure
from nested.tasks.digits import load_digits

OPTIMIZERS = {
    "momentum": lambda net, lr: torch.optim.SGD(net.parameters(), lr, momentum=0.9),
    "Adam": lambda net, lr: torch.optim.Adam(net.parameters(), lr),
    "DGD": lambda net, lr: DGD(net.parameters(), lr, module=net),
    "delta, unit key": lambda net, lr: DeltaMomentum(net.parameters(), lr, unit_key=True),
    "deep momentum": lambda net, lr: DeepMomentum(net.parameters(), lr),
    "Muon": lambda net, lr: M3(net.parameters(), lr, slow_weight=0, second_moment=False),
    "M3": lambda net, lr: M3(net.parameters(), lr),
}
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
TURN, AFTER = 40, 30  # steps before and after the turn
BLOCK = 10  # batches of one class, in the sorted stream
CHANCE = math.log(10)  # the loss of ten equal probabilities


def remembered(name: str, same_inputs: bool) -> list[float]:
    """How much of the move still goes along the old gradient, after a turn of the gradients of a
    linear layer: to other errors of the same inputs, or to other inputs."""
    torch.manual_seed(0)
    net = nn.Linear(8, 8, bias=False)
    nn.init.zeros_(net.weight)
    optimizer = OPTIMIZERS[name](net, 1e-3)
    errors, inputs = (torch.linalg.qr(torch.randn(8, 2))[0].T for _ in range(2))  # orthogonal
    old = torch.outer(errors[0], inputs[0])
    along = []
    for step in range(TURN + AFTER):
        before, turned = net.weight.detach().clone(), int(step >= TURN)
        optimizer.zero_grad()
        (net(inputs[turned * (not same_inputs)]) @ errors[turned]).backward()
        optimizer.step()
        along.append(((before - net.weight.detach()) * old).sum().item())
    return [share / along[TURN - 1] for share in along[TURN - 1 :]]


def stream(is_sorted: bool, steps: int, generator: Generator):
    """Batches of 32 digits: in random order, or ``BLOCK`` batches of each class in turn."""
    images, labels = (part[:1200] for part in load_digits())
    for step in range(steps):
        if step % (10 * BLOCK) == 0:
            order = torch.randperm(10, generator=generator)
        label = order[step // BLOCK % 10]
        pool = (labels == label).nonzero()[:, 0] if is_sorted else torch.arange(1200)
        rows = pool[torch.randint(len(pool), (32,), generator=generator)]
        yield images[rows], labels[rows]


def train(name: str, lr: float, is_sorted: bool, seed: int, steps: int = 300) -> float:
    """The loss on unseen digits, averaged over the last 100 steps: one whole round of classes."""
    images, labels = (part[1200:] for part in load_digits())
    torch.manual_seed(seed)
    net, losses = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), []
    optimizer = OPTIMIZERS[name](net, lr)
    for step, (x, y) in enumerate(stream(is_sorted, steps, Generator().manual_seed(seed))):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        if step >= steps - 100 and step % 10 == 9:
            with torch.no_grad():
                losses.append(nn.functional.cross_entropy(net(images), labels))
    return torch.stack(losses).mean().nan_to_num(nan=99.0).item()


def race(is_sorted: bool, seeds: int) -> dict[str, tuple[float, float]]:
    """{optimizer: (loss at its best rate on other seeds, that rate)}"""
    found = {}
    for name in OPTIMIZERS:
        lr = min(RATES, key=lambda lr: train(name, lr, is_sorted, seed=100))
        found[name] = sum(train(name, lr, is_sorted, seed) for seed in range(seeds)) / seeds, lr
    return found


def main(folder: Path = Path("runs"), seeds: int = 3) -> dict[str, float]:
    numbers = {
        f"{name} is a minimiser": error
        for name, error in read_as_memories(torch.randn(20, 5).double()).items()
    }
    print("what torch.optim keeps, against memories found by minimising eq. 13 and 101:")
    print("".join(f"  {name}, off by {error:.0e}\n" for name, error in numbers.items()), end="")
    figure, ((left, right), bars) = new_figure(2, 2)
    for panel, same in ((left, True), (right, False)):
        inputs = "same" if same else "other"
        for colour, name in zip(COLOURS, OPTIMIZERS):
            curve = remembered(name, same)
            numbers[f"{name}, {inputs} inputs"] = curve[5]
            panel.plot(curve, label=name, color=colour)
        panel.set(xlabel="steps since the turn", ylabel="move along the old gradient")
        panel.set_title(f"new gradients, {inputs} inputs", fontsize=9)
    left.legend(fontsize=7)
    for panel, is_sorted in zip(bars, (False, True)):
        order = "sorted by class" if is_sorted else "in random order"
        print(f"digits {order}: loss on unseen digits, at the best of {len(RATES)} rates")
        found = race(is_sorted, seeds)
        for name, (loss, lr) in found.items():
            numbers[f"{name}, {order}"] = loss
            print(f"  {name:<15} {loss:.3f}   (lr {lr:g})")
        panel.barh(list(found), [loss for loss, _ in found.values()], color=COLOURS[: len(found)])
        panel.invert_yaxis()
        panel.set_title(f"digits {order}", fontsize=9)
        panel.axvline(CHANCE, color="black", linestyle=":")
        panel.set(xlabel="loss on unseen digits (dotted: knowing nothing)")
    save_figure(figure, prepare_folder(folder) / "lesson_06.png")
    return numbers


# Answer. Momentum remembers some ten steps, whatever comes. Delta momentum lets go of the old
# gradient at once where the new one comes with the same inputs, its key, and else keeps it: that
# is what a key is for, and in random order it pays. Where the inputs are others, Muon and M3
# raise what is left of an old direction to full size again, and M3's slow half knows what came
# two classes ago: on the sorted stream only they learn much, for all the others mostly unlearn
# the class before. Deep momentum hardly differs from momentum here: one curve for all weights has
# little to remember. And DGD, exact as it is, is worst: it makes each layer's outputs equal
# -dL/dy, which for logits is under 1 in size, so that the loss cannot fall under about 1.55. A
# memory's minimiser need not be the task's.

if __name__ == "__main__":
    main()
