"""How good is a learned rule?   python -m tests.benchmarks.rules [--rule default | FILE]

Races it on held-out digits for 20, 100 and 500 steps, and for 100 steps on families that no rule
was taught on, against six optimizers tuned for each family and horizon; then 200 runs of 2,000
steps; then times a step of it as an optimizer. Speed-ups are steps of the baseline over steps
needed to its final smoothed loss, with bootstrap intervals over 64 tasks. Exits non-zero when a
bound is broken. 20 minutes; ``--png FILE`` draws it.
"""

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402
from torch import Generator, nn  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from nested import race, unroll_tasks  # noqa: E402
from nested.meta.baselines import draw_tasks  # noqa: E402
from nested.meta.objective import scored_losses  # noqa: E402
from nested.meta.race import RaceResult  # noqa: E402
from nested.meta.speed_up import SpeedUp, final_loss, smoothed, speed_up  # noqa: E402
from nested.meta.tuned import TUNED  # noqa: E402
from nested.optim.newton_schulz import newton_schulz  # noqa: E402
from nested.rules import (  # noqa: E402
    CoordinatewiseRule,
    LearnedOptimizer,
    load_rule,
    read_card,
    save_rule,
)
from nested.rules.features import COORDINATE_FEATURES, DIRECTIONS  # noqa: E402
from nested.rules.pretrained import path_of  # noqa: E402
from nested.rules.train import transfer  # noqa: E402
from nested.support.plots import COLOURS, new_figure, plain_log_scale, save_figure  # noqa: E402
from nested.tasks import Digits  # noqa: E402

RULE, CHASED = "the rule", "Adam"
LEAST = {20: 2.0, 100: 1.2}  # speed-up on held-out digits
LONG_RUN, LARGEST = 500, 1.5  # of Adam's final loss
TRANSFERRED = ("4 x wider", "two layers deeper", "convolution", "glyphs", "regression")
RUNS, LONG = 200, 2000
NETS = {"64-32-10": (64, 32, 10), "784-256-256-10": (784, 256, 256, 10)}
LARGE_NET = {"matrices": [(768, 256), (256, 256), (1024, 256), (256, 1024)] * 12, "rounds": 6}
MOST_TIME, MOST_MEMORY = 30.0, 4.0  # of AdamW's, beside Newton-Schulz; of the weights'


class Row(NamedTuple):
    title: str
    result: RaceResult
    over_adam: SpeedUp
    over_best: SpeedUp
    best: str
    loss: float  # the final loss, as a share of Adam's
    unseen: float  # likewise, on the query batch


def show(title, rule, family, horizon, sizes):
    started = time.monotonic()
    result = race({RULE: rule}, family, horizon, baselines=TUNED, tuned_for="final", **sizes)
    best = min(TUNED, key=lambda name: final_loss(result, name))
    found, against = speed_up(result, RULE, CHASED), speed_up(result, RULE, best)
    itself = speed_up(result, CHASED, CHASED)
    names = (RULE, CHASED, best)
    losses = [final_loss(result, name) for name in names]
    unseen = [result.estimate(name, "final").mean for name in names]
    print(
        f"{title:<20}{horizon:>5}{found.value:>7.2f} ({found.low:.2f}-{found.high:.2f})"
        f"{itself.value:>6.2f}"
        f"{against.value:>7.2f} {best:<9}"
        f"{''.join(f'{x:>9.4f}' for x in losses)} {''.join(f'{x:>8.3f}' for x in unseen)}"
        f"{time.monotonic() - started:>6.0f} s",
        flush=True,
    )
    shares = losses[0] / losses[1], unseen[0] / unseen[1]
    return Row(title, result, found, against, best, *shares)


def long_runs(rule):
    """Of ``RUNS`` runs of ``LONG`` steps: how many end above their start, and give NaN."""
    draw = draw_tasks(Digits().held_out(), RUNS, LONG, Generator().manual_seed(2**31 + 7))
    told = rule.for_horizon(LONG)
    run = unroll_tasks(draw.loss_fn, draw.params, draw.batches, told, differentiable=False)
    with torch.no_grad():
        ends = scored_losses(draw.loss_fn, run, draw.query)[:, -1]
    higher = (~(ends <= run.losses[:, 0])).sum().item()
    odd = (~run.losses.isfinite()).any(1).sum().item()
    said = f"{RUNS} runs of {LONG} steps: {higher} end above their start, {odd} give NaN"
    print(said)
    return higher + odd, said


def time_a_step(rule):
    """Milliseconds a step of optimizers on two nets, and the size of their states."""
    makes = {
        "AdamW(foreach)": lambda net: torch.optim.AdamW(net.parameters(), foreach=True),
        "Muon, matrices": lambda net: torch.optim.Muon(
            [p for p in net.parameters() if p.dim() == 2]
        ),
        RULE: lambda net: LearnedOptimizer(net.parameters(), rule, total_steps=1000),
    }
    for title, sizes in NETS.items():
        layers = [part for pair in zip(sizes, sizes[1:]) for part in (nn.Linear(*pair), nn.ReLU())]
        net = nn.Sequential(*layers[:-1])
        batch = torch.randn(64, sizes[0]), torch.randint(sizes[-1], (64,))
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        said = []
        for name, make in makes.items():
            optimizer, times = make(net), []
            for _ in range(30):
                started = time.perf_counter()
                optimizer.step(**({"loss": loss.detach()} if name == RULE else {}))
                times.append(time.perf_counter() - started)
            state = [x for kept in optimizer.state.values() for x in kept.values()]
            held = sum(x.numel() for x in state if torch.is_tensor(x))
            held /= sum(p.numel() for p in optimizer.state)
            milliseconds = 1e3 * torch.tensor(times[5:]).median().item()
            said.append(f"{name} {milliseconds:.2f} ms, {held:.1f} numbers a weight")
        print(f"a step of {title}: {'; '.join(said)}")


def large_net(rule):
    """What a step costs on millions of weights: its time over AdamW's, the best of interleaved
    rounds, and the most memory on the way over that of the weights. Returns bounds that broke."""
    g = Generator().manual_seed(0)
    params = [
        nn.Parameter(torch.randn(s, generator=g) / s[1] ** 0.5) for s in LARGE_NET["matrices"]
    ]
    for p in params:
        p.grad = torch.randn(p.shape, generator=g)
    makes = {
        "AdamW": lambda: torch.optim.AdamW(params, 1e-5),
        RULE: lambda: LearnedOptimizer(params, rule, total_steps=1000),
        "Newton-Schulz": lambda: None,
    }
    optimizers, best = {name: make() for name, make in makes.items()}, dict.fromkeys(
        makes, math.inf
    )
    for _ in range(LARGE_NET["rounds"]):
        for name, optimizer in optimizers.items():
            started = time.perf_counter()
            if optimizer is None:
                for p in params:
                    newton_schulz(p.detach())
            else:
                optimizer.step(**({"loss": 1.0} if name == RULE else {}))
            best[name] = min(best[name], time.perf_counter() - started)
    weights = sum(p.numel() for p in params)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        optimizers[RULE].step(loss=1.0)
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    ratios = {name: seconds / best["AdamW"] for name, seconds in best.items()}
    said = ", ".join(f"{name} {best[name]:.3f} s ({ratios[name]:.1f} x AdamW)" for name in best)
    memory = peak / (4 * weights)
    print(f"a step of {weights:,} weights: {said}; {memory:.2f} x the weights on the way")
    beside = ratios[RULE] - ratios["Newton-Schulz"]
    time_broken = [f"large net: {beside:.1f} x AdamW beside Newton-Schulz"] * (beside > MOST_TIME)
    return time_broken + [f"large net: {memory:.1f} x the weights"] * (memory > MOST_MEMORY)


def write_card(path: Path, rows: list[Row], long: str, limits: list[str]) -> None:
    """Add what was measured, and what is known not to work, to the card of a rule."""
    results = {
        f"{row.title}, {row.result.horizon} steps": {
            "speed-up over tuned Adam": [round(x, 2) for x in row.over_adam],
            f"over the best, {row.best}": round(row.over_best.value, 2),
            "final loss, of Adam's": round(row.loss, 3),
            "on unseen data, of Adam's": round(row.unseen, 3),
        }
        for row in rows
    }
    measured = {"results": {**results, "long runs": long}, "known limits": limits}
    save_rule(path, load_rule(path), {**read_card(path), **measured})


@torch.no_grad()
def draw(rule: CoordinatewiseRule, rows: list[Row], path: str) -> None:
    figure, (above, below) = new_figure(2, 3)
    digits = [row for row in rows if row.title == "digits"]
    for panel, row in zip(above, digits):
        result = row.result
        best = min(TUNED, key=lambda name: final_loss(result, name))
        for name, colour in zip(dict.fromkeys((RULE, CHASED, best)), COLOURS):
            panel.plot(smoothed(result.curve(name)[0][:-1]), color=colour, label=name)
        panel.set(xlabel="step", ylabel="loss", title=f"held-out digits, {result.horizon} steps")
        plain_log_scale(panel)
        panel.legend(fontsize=8)
    names = [f"{row.title}, {row.result.horizon}" for row in rows]
    found = [row.over_adam for row in rows]
    bars = [[x.value - x.low for x in found], [x.high - x.value for x in found]]
    below[0].barh(names, [x.value for x in found], xerr=torch.tensor(bars).clamp(min=0))
    below[0].axvline(1, color="black", linewidth=0.8)
    below[0].invert_yaxis()
    below[0].tick_params(labelsize=7)
    below[0].set(title="speed-up over tuned Adam")
    middle = digits[min(1, len(digits) - 1)].result
    lrs = middle.entries[RULE].signals["lr"].mean(0).T
    for lr, name in zip(lrs, ("weights 1", "biases 1", "weights 2", "biases 2")):
        below[1].plot(lr, label=name)
    plain_log_scale(below[1])
    below[1].set(title="the learned schedule", xlabel="step", ylabel="size of a step (rms)")
    below[1].legend(fontsize=8)
    reach = torch.linspace(-3, 3, 61)
    momentum, gradient = torch.meshgrid(reach, reach, indexing="xy")
    shown = torch.zeros(len(COORDINATE_FEATURES), momentum.numel())
    at = COORDINATE_FEATURES.index
    shown[at("gradient")] = gradient.flatten()
    shown[at("momentum 0.9 over root V")] = momentum.flatten()
    hidden = rule.see.bias[:, None] + rule.see.weight @ shown  # all else at 0
    plain = rule.schedule(torch.zeros(rule.see_tensor.in_features))[1:]
    mix = plain[:, None] + rule.mix.weight @ hidden.relu()
    direction = (mix * shown[: len(DIRECTIONS)]).sum(0)
    direction = (direction / direction.square().mean().sqrt()).unflatten(0, momentum.shape)
    heat = below[2].pcolormesh(reach, reach, direction, cmap="RdBu_r", shading="nearest")
    below[2].contour(reach, reach, direction, colors="black", linewidths=0.4)
    figure.colorbar(heat, ax=below[2])
    below[2].set(
        title="the learned direction",
        xlabel="Adam's direction (momentum over root V)",
        ylabel="gradient over its rms",
    )
    save_figure(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rule", default="default")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--tuning-tasks", type=int, default=16)
    families = {"digits": Digits(), **transfer()}
    parser.add_argument("--only", nargs="+", choices=[*families, "long", "time", "large"])
    parser.add_argument("--png")
    parser.add_argument("--card", nargs="*", help="add the results, and these limits, to the card")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    rule, broken, rows, long = load_rule(args.rule), [], [], "not run"
    sizes = {"tasks": args.tasks, "tuning_tasks": args.tuning_tasks}
    print(f"{'':<25}{'speed-up over':>18}{'':<26}{'final loss':>18}{'unseen':>27}")
    head = (
        f"{'Adam':>8} (95 %){'itself':>12}{'the best':>8}{'':<8}{'rule':>9}{'Adam':>9}{'best':>9}"
    )
    print(f"{'':<20}{'K':>5}{head}{'rule':>9}{'Adam':>8}{'best':>8}", flush=True)
    for name, family in families.items():
        if args.only and name not in args.only:
            continue
        for horizon in (20, 100, 500) if name == "digits" else (100,):
            row = show(name, rule, family, horizon, sizes)
            rows.append(row)
            if name == "digits" and row.over_adam.value < LEAST.get(horizon, 0):
                broken.append(f"digits, K = {horizon}: speed-up {row.over_adam.value:.2f}")
            if name == "digits" and horizon == LONG_RUN and row.loss > LARGEST:
                broken.append(f"digits, K = {horizon}: final loss {row.loss:.2f} x Adam's")
    faster = sum(row.over_adam.value >= 1 for row in rows if row.title in TRANSFERRED)
    if not args.only and faster < 3:
        broken.append(f"transfer: as fast as Adam on {faster} of {len(TRANSFERRED)}")
    if not args.only or "long" in args.only:
        bad, long = long_runs(rule)
        broken += [long] * (bad > 0)
    if not args.only or "time" in args.only:
        time_a_step(rule)
    if not args.only or "large" in args.only:
        broken += large_net(rule)
    if (
        args.png
        and isinstance(rule, CoordinatewiseRule)
        and any(row.title == "digits" for row in rows)
    ):
        draw(rule, rows, args.png)
    if args.card is not None:
        write_card(path_of(args.rule), rows, long, args.card)
    print("\nbounds broken:", "; ".join(broken) or "none")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
