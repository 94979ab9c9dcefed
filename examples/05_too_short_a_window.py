"""Lesson 04. Too short a horizon: why does a rule lose at five times the length it learned at?

Ask. A run has 100 steps, and level 4 differentiates through windows of 1, 5 or 20 of them: each
window is scored by its own losses, and what it does to later windows is cut off. Does level 4 still
find the best way to lower a learning rate? If not, which way is it wrong, and what does it cost?

Show. One number to learn: how fast the rate falls. The task: bowls with steep and flat sides, seen
through noise. Run `python examples/04_too_short_a_horizon.py`; the picture is runs/lesson_04.png.
"""

from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from nested import MetaConfig, Step, UpdateRule, detached, unroll_tasks
from nested.meta.baselines import Draw, draw_tasks
from nested.meta.evolution import EvolutionStep, paired
from nested.meta.objective import scored_losses
from nested.support.files import prepare_folder
from nested.support.plots import COLOURS, new_figure, save_figure
from nested.tasks import Quadratics

STEPS, TASKS, NOISE = 100, 128, 1.0
WINDOWS = (1, 5, 20, 100)
FALLS = torch.linspace(0.2, 1.4, 13)
PES_WINDOW, PES_REPEATS = 5, 8


class Falling(UpdateRule):
    """Descent at the rate ``0.8 / (1 + step / 5)^fall``; ``fall`` is all there is to learn."""

    def __init__(self, fall: float) -> None:
        super().__init__()
        self.fall = nn.Parameter(torch.tensor(fall))

    def init(self, params):
        return {"step": next(iter(params.values())).new_zeros(())}

    def forward(self, params, grads, state, loss):
        lr = 0.8 * (1 + state["step"] / 5) ** -self.fall
        moved = {name: p - lr * grads[name] for name, p in params.items()}
        return Step(moved, {"step": state["step"] + 1}, {"lr": lr})


def told(fall: float, window: int, draw: Draw) -> tuple[float, float]:
    """What level 4 is told, window by window, d(mean loss of the run) / d(fall); and that loss."""
    rule, params, state, slope, total = Falling(fall), draw.params, None, 0.0, 0.0
    for start in range(0, STEPS, window):
        batches = draw.batches[start : start + window]
        run = unroll_tasks(draw.loss_fn, params, batches, rule, state)
        loss = scored_losses(draw.loss_fn, run, draw.query).mean() * window / STEPS
        slope += torch.autograd.grad(loss, rule.fall)[0].item()
        total += loss.item()
        params, state = detached((run.params, run.state))
    return slope, total


def told_by_pes(fall: float, draw: Draw, seed: int) -> float:
    """The same without differentiating: windows of 5 that remember what was tried before."""
    config = MetaConfig(unroll_length=PES_WINDOW, tasks=2 * TASKS, estimator="pes", sigma=0.05)
    step = EvolutionStep(Falling(fall), config, Generator().manual_seed(seed))
    params, query, slope = paired(draw.params), paired(draw.query), 0.0
    state = torch.vmap(step.rule.init)(params)
    for start in range(0, STEPS, PES_WINDOW):
        batches = [paired(batch) for batch in draw.batches[start : start + PES_WINDOW]]
        moved, (grad,) = step.estimate(draw.loss_fn, params, state, batches, query)
        params, state = moved.params, moved.state
        slope += grad.item() * PES_WINDOW / STEPS
    return slope


def settles(slopes: Tensor) -> float:
    """Where level 4, which goes downhill, comes to rest: the slope goes from below 0 to above."""
    i = int((slopes < 0).sum().clamp(1, len(slopes) - 1))
    share = (slopes[i - 1] / (slopes[i - 1] - slopes[i])).clamp(0, 1)
    return torch.lerp(FALLS[i - 1], FALLS[i], share).item()


def main(folder: Path = Path("runs")) -> dict[str, float]:
    family = Quadratics(dim=8, curvature=(0.01, 1.0), noise=NOISE)
    draw = draw_tasks(family, TASKS, STEPS, Generator().manual_seed(0))
    figure, ((left, right),) = new_figure(1, 2)
    numbers = {}
    for window, colour in zip(WINDOWS, COLOURS):
        found = torch.tensor([told(fall.item(), window, draw) for fall in FALLS])
        fall = settles(found[:, 0])
        numbers[f"fall, {window}"], numbers[f"loss, {window}"] = fall, told(fall, STEPS, draw)[1]
        left.plot(FALLS, found[:, 0], color=colour, label=f"windows of {window}")
        right.axvline(fall, color=colour, linestyle="--")
        loss = numbers[f"loss, {window}"]
        print(f"windows of {window:>3}: it settles at a fall of {fall:.2f}, mean loss {loss:.3f}")
    right.plot(FALLS, found[:, 1], color="black")
    for fall in FALLS[1::5]:
        guesses = torch.tensor([told_by_pes(fall.item(), draw, s) for s in range(PES_REPEATS)])
        error = (guesses.std() / PES_REPEATS**0.5).item()
        exact = told(fall.item(), STEPS, draw)[0]
        numbers[f"PES at {fall:.1f}, errors off"] = (guesses.mean().item() - exact) / error
        left.errorbar(fall, guesses.mean(), 2 * error, color="black", fmt="o", markersize=3)
    left.axhline(0, color="grey", linewidth=0.5)
    left.set(xlabel="how fast the rate falls", ylabel="what level 4 is told", ylim=(-0.4, 0.15))
    left.set_title("the hypergradient (dots: PES, windows of 5)", fontsize=9)
    left.legend(fontsize=7)
    right.set(xlabel="how fast the rate falls", ylabel="mean loss of a run, noise and all")
    right.set_title("where level 4 settles (dashed)", fontsize=9)
    save_figure(figure, prepare_folder(folder) / "lesson_04.png")
    return numbers


# Answer. It lowers the rate too soon. Within a short window little is won along the flat sides of a
# bowl, and much by no longer jumping about in the steep ones, so that each window votes for smaller
# steps; that the flat sides are then never crossed is seen by later windows alone, and those may
# not say so. Longer windows help, and cost memory and noise. PES also sees windows of 5, but
# remembers what was tried in those before, and is told the truth.

if __name__ == "__main__":
    main()
