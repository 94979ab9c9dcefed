"""Lesson 02. K steps: what does looking ahead change?

Ask. Lesson 01 found the best learning rate for one step. Is the best one for 30 steps smaller,
larger, or the same? And what else, besides a learning rate, comes before K steps and could learn?

Show. Run `python examples/02_k_steps.py`; the picture is runs/lesson_02.png.
"""

from pathlib import Path

import torch
from torch import Generator, nn
from torch.func import functional_call

from nested import Step, UpdateRule, momentum_step, slow_weights_step, unroll_tasks
from nested.support.files import prepare_folder
from nested.support.plots import new_figure, save_figure
from nested.tasks import Digits, Quadratics
from nested.tasks.stack import stack_batch, stack_init


class ConstantRule(UpdateRule):
    """The smallest level 4: two numbers, that can learn."""

    def __init__(self, lr: float, momentum: float = 0.0) -> None:
        super().__init__()
        self.log_lr = nn.Parameter(torch.tensor(lr).log())
        self.momentum = momentum

    def init(self, params):
        return {"momentum": {name: torch.zeros_like(p) for name, p in params.items()}}

    def forward(self, params, grads, state, loss):
        buffer = momentum_step(state["momentum"], grads, self.momentum)
        moved = slow_weights_step(params, buffer, self.log_lr.exp())
        return Step(moved, {"momentum": buffer}, {"lr": self.log_lr.exp()})


def best_lr(steps: int) -> tuple[float, torch.Tensor, list[float]]:
    """Learn the learning rate for K = ``steps``, by Adam on the hypergradient."""
    generator = Generator().manual_seed(0)
    family = Quadratics(noise=0.0)
    tasks = [family.sample(generator) for _ in range(200)]
    start = stack_init(tasks, generator)
    batches = [stack_batch(tasks, generator)] * (steps + 1)

    def final_loss(rule, **how):
        run = unroll_tasks(tasks[0].loss, start, batches[:-1], rule, **how)
        return torch.vmap(tasks[0].loss)(run.params, batches[-1]).mean()

    rule = ConstantRule(0.1)
    adam = torch.optim.Adam(rule.parameters(), lr=0.1)
    for _ in range(60):
        adam.zero_grad()
        final_loss(rule).backward()
        adam.step()
    rates = torch.logspace(-1.5, 0, 25)
    losses = [final_loss(ConstantRule(lr), differentiable=False).item() for lr in rates.tolist()]
    return rule.log_lr.exp().item(), rates, losses


def maml(meta_steps: int = 150, steps: int = 5) -> tuple[float, float]:
    """MAML (Finn et al. 2017): initial weights from which K steps on a new task go far."""
    family, generator = Digits(contrast=(1.0, 1.0)), Generator().manual_seed(0)
    rule = ConstantRule(0.3, momentum=0.8)
    start = family.sample(generator).init(generator)
    random_start = {name: w.clone() for name, w in start.items()}
    adam = torch.optim.Adam([w.requires_grad_() for w in start.values()], lr=0.01)
    for _ in range(meta_steps):  # MAML in ten lines
        tasks = [family.sample(generator) for _ in range(8)]
        params = {name: w.expand(8, *w.shape) for name, w in start.items()}
        batches = [stack_batch(tasks, generator) for _ in range(steps)]
        run = unroll_tasks(family.loss, params, batches, rule)
        query = stack_batch(tasks, generator, "query")
        loss = torch.vmap(family.loss)(run.params, query).mean()
        adam.zero_grad()
        loss.backward()  # through all K steps, into the initial weights
        adam.step()
    return tuple(accuracy(family.held_out(), w, rule, steps) for w in (random_start, start))


@torch.no_grad()
def accuracy(family: Digits, start, rule: UpdateRule, steps: int) -> float:
    """Share of unseen digits right, after K steps on each of 50 relabellings never met."""
    generator = Generator().manual_seed(1)
    tasks = [family.sample(generator) for _ in range(50)]
    params = {name: w.expand(50, *w.shape) for name, w in start.items()}
    batches = [stack_batch(tasks, generator) for _ in range(steps)]
    run = unroll_tasks(family.loss, params, batches, rule, differentiable=False)
    images, labels = stack_batch(tasks, generator, "query")
    predict = torch.vmap(lambda p, x: functional_call(family.model, p, (x,)).argmax(-1))
    return (predict(run.params, images) == labels).float().mean().item()


def main(folder: Path = Path("runs")) -> dict[str, float]:
    figure, ((left, right),) = new_figure(1, 2)
    numbers = {}
    for steps in (1, 3, 10, 30):
        lr, rates, losses = best_lr(steps)
        numbers[f"lr_{steps}"] = lr
        print(f"K = {steps:>2}: the best learning rate, found by hypergradients, is {lr:.3f}")
        (line,) = left.plot(rates, losses, label=f"K = {steps}")
        left.axvline(lr, color=line.get_color(), linestyle=":")
    left.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="loss after K steps")
    left.set_ylim(1e-2, 10)
    left.set_title("dotted: found by hypergradients", fontsize=9)
    left.legend()

    numbers["random_start"], numbers["learned_start"] = maml()
    print(
        "accuracy on new relabellings of unseen digits after 5 steps, from initial weights that are"
    )
    print(f"  random {numbers['random_start']:.1%}, learned {numbers['learned_start']:.1%} (MAML)")
    right.bar(["random start", "MAML"], [numbers["random_start"], numbers["learned_start"]])
    right.set(ylim=(0, 1), ylabel="accuracy after 5 steps on a new task")
    save_figure(figure, prepare_folder(folder) / "lesson_02.png")
    return numbers


# Answer. Larger: one step can only win in the steep directions; looking further ahead, the flat
# ones count too, and they want long steps. Initial weights can learn just as well: that is MAML.

if __name__ == "__main__":
    main()
