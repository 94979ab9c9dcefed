"""Watch a small net learn how to train another net on real handwritten digits.

The demo takes about a minute on two cores. ``--quick`` makes a small version of everything, and
``--resume`` continues an interrupted run.

    python main.py

Results go to runs/: race.png and before_after.png (pictures), race.json (the numbers), rule.pt
(what was learned) and schedule.pt (the rival that sees only a clock).
"""

from __future__ import annotations

import os
import signal

# Until main() runs there is nothing to save, so Ctrl-C just ends it (unless it is to be ignored).
HEARS_CTRL_C = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if __name__ == "__main__" and HEARS_CTRL_C:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# By default OpenMP threads spin while they wait: beside one busy process that made the demo ten
# times slower. Spinning briefly costs nothing on an idle machine. Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from nested import MetaConfig, MetaOptimizer, meta_train, race
from nested.meta.baselines import HandMade
from nested.meta.history import MetaHistory
from nested.meta.race import RaceResult
from nested.meta.report import (
    CARRIED_ON,
    COLUMNS,
    SCHEDULE,
    UNTRAINED,
    draw_before_after,
    draw_report,
    table,
    verdict,
)
from nested.meta.training import MetaTrainingError
from nested.meta.tuned import BASELINES
from nested.support.device import DEVICES, find_device
from nested.support.files import prepare_folder, save_json
from nested.support.progress import Progress
from nested.tasks import FAMILIES, TaskFamily
from nested.unroll.dispatch import BACKENDS

RULE = "the rule"
UNTUNED = {
    "SGD, lr 0.1": HandMade(torch.optim.SGD, {"lr": 0.1}),
    "Adam, lr 0.001": HandMade(torch.optim.Adam, {"lr": 0.001}),
}
SECONDS_BETWEEN_PICTURES = 10.0
QUICK = {"meta_steps": 60, "tasks": 8}
FULL_RACE, QUICK_RACE = {"tasks": 128, "tuning_tasks": 32}, {"tasks": 64, "tuning_tasks": 16}

PICTURES = ("race.png", "before_after.png")
LEARNED, PREVIOUS = ("rule.pt", "schedule.pt"), ("rule.previous.pt", "schedule.previous.pt")

LADDER = """
A learning system is a stack of levels. Each level has a state and sees something. It acts at one
clock, and its state moves at that clock or a slower one:

  level              state            sees                   acts         moves
  1 forward pass     none             a batch of examples    every batch  never: no state
  2 momentum buffer  {weights:>6,} numbers   gradients              every batch  every batch
  3 slow weights     {weights:>6,} numbers   the momentum buffer    every batch  every batch
  4 MetaOptimizer    {rule:>6,} numbers   loss, step, gradients  every batch  every {window} batches

Levels 1 to 3 are momentum SGD. Level 4, a small net, picks the learning rate and the momentum of
every step. We train it by differentiating the losses of {window} training steps with respect to its
weights. That derivative is called the hypergradient."""

LEGEND = """
Meta-training: {steps} updates of level 4. A line has means over the last window of {window} steps:
  loss           the loss of the inner nets after each step: level 4 learns to lower it
  lr             the learning rate that level 4 picked
  momentum       the momentum that it picked
  hypergradient  its length before clipping
"""
CLOCK_ONLY = """
Meta-training again, of a level 4 that sees only a clock, on the same windows: a learned schedule.
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the flags; wrong ones end the program with usage."""
    defaults = MetaConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "the inner problems (default: digits)"
    add("--family", choices=FAMILIES, default="digits", help=text)
    text = "race at H inner steps and at 5 H (default: 20)"
    add("--horizon", type=int, default=20, metavar="H", help=text)
    text = f"inner steps in a window, each differentiated (default: {defaults.unroll_length})"
    add("--unroll-length", type=int, metavar="K", help=text)
    text = f"{defaults.meta_steps}, or {QUICK['meta_steps']} with --quick"
    add("--meta-steps", type=int, metavar="N", help=f"updates of level 4 (default: {text})")
    text = f"{defaults.tasks}, or {QUICK['tasks']} with --quick"
    add("--tasks", type=int, metavar="T", help=f"inner nets side by side (default: {text})")
    text = "of all that is random, except the race's tasks (default: 0)"
    add("--seed", type=int, default=0, help=text)
    text = "auto (the default) takes cuda, then mps, then cpu, as there is"
    add("--device", choices=DEVICES, default="auto", help=text)
    text = "what unrolls in meta-training; higher is a slow cross-check (default: eager)"
    add("--backend", choices=BACKENDS, default="eager", help=text)
    add("--out", type=Path, default=Path("runs"), help="folder for the results (default: runs)")
    text = "continue an interrupted run from its checkpoints; the numbers come out the same"
    add("--resume", action="store_true", help=text)
    text = "less of everything: about 20 seconds, weaker results"
    add("--quick", action="store_true", help=text)
    return parser.parse_args(arguments)


def configure(args: argparse.Namespace) -> MetaConfig:
    """What the flags choose; raises ``ValueError`` for values that are not allowed."""
    if args.horizon < 1:
        raise ValueError(f"--horizon is a whole number from 1, but got {args.horizon}")
    chosen = dict(QUICK) if args.quick else {}
    for name in ("unroll_length", "meta_steps", "tasks"):
        if getattr(args, name) is not None:
            chosen[name] = getattr(args, name)
    longest = max(MetaConfig.max_horizon, chosen.get("unroll_length", 0))
    return MetaConfig(**chosen, max_horizon=longest, seed=args.seed, backend=args.backend)


@dataclass(frozen=True)
class Demo:
    """What the flags choose."""

    args: argparse.Namespace
    config: MetaConfig
    family: TaskFamily
    folder: Path


def run(args: argparse.Namespace) -> None:
    """The demo: introduce, race, learn, race again, print what came out."""
    started = time.monotonic()
    config, device = configure(args), find_device(args.device)
    folder = prepare_folder(args.out, *PICTURES, "race.json", *LEARNED, *PREVIOUS)
    demo = Demo(args, config, FAMILIES[args.family](device=device), folder)
    rule, untrained, schedule = (
        MetaOptimizer(**sees, generator=Generator().manual_seed(args.seed)).to(device)
        for sees in ({}, {}, {"context": ("log_step",)})
    )

    def race_now(history: MetaHistory) -> None:
        before = {UNTRAINED: untrained} if history.records else {}
        entrants, sizes = {RULE: rule, **before, **UNTUNED}, {"tasks": 64, "baselines": {}}
        result = race(entrants, demo.family, args.horizon, **sizes, replay=())
        draw(demo, [result], history)
        if not history.records:
            print("First a race of level 4 untrained, on tasks that meta-training never uses:\n")
            print(table(result, RULE), flush=True)

    show_ladder(demo, rule)
    if not (args.resume and (folder / "rule.pt").exists()):
        race_now(MetaHistory())
    seconds = {"first_race": time.monotonic() - started}
    history = learn(demo, rule, race_now)
    seconds["rule_learned"] = time.monotonic() - started
    print(CLOCK_ONLY)
    train(demo, schedule, "schedule.pt")
    seconds["schedule_learned"] = time.monotonic() - started
    races = race_both(demo, {RULE: rule, SCHEDULE: schedule}, untrained)
    words = verdict(*races, RULE)
    print("\n".join(["", table(races[0], RULE), "", table(races[1], RULE), "", words, ""]))
    draw(demo, races, history)
    draw_before_after(folder / "before_after.png", races, RULE)
    seconds["in_all"] = time.monotonic() - started
    numbers = {"skipped_updates": history.skipped, "verdict": words, "seconds": seconds}
    save_numbers(demo, races, numbers)
    files = ", ".join([*PICTURES, "race.json", *LEARNED])
    print(f"Saved {files} in {folder}/ after {seconds['in_all']:.0f} s.")


def save_numbers(demo: Demo, races: Sequence[RaceResult], numbers: dict[str, Any]) -> None:
    """Save race.json: the settings, both races, and the other ``numbers``."""
    settings = {"family": demo.args.family, "config": asdict(demo.config)}
    summaries = [result.summary(RULE) for result in races]
    save_json(demo.folder / "race.json", {**settings, "races": summaries, **numbers})


def draw(demo: Demo, races: Sequence[RaceResult], history: MetaHistory) -> None:
    """Draw race.png, as far as level 4 has learned."""
    learned = f"after {len(history.records)} of {demo.config.meta_steps} meta-steps"
    title = f"{demo.args.family}: level 4 {learned}, seed {demo.args.seed}"
    draw_report(demo.folder / "race.png", races, history, RULE, title=title)


def show_ladder(demo: Demo, rule: MetaOptimizer) -> None:
    """Print each level, with its state, what it sees, when it acts and moves; then the columns."""
    weights = demo.family.sample(Generator().manual_seed(0)).init(Generator().manual_seed(0))
    print(
        LADDER.format(
            weights=sum(w.numel() for w in weights.values()),
            rule=sum(p.numel() for p in rule.parameters()),
            window=demo.config.unroll_length,
        )
    )
    print(COLUMNS)


def learn(demo: Demo, rule: MetaOptimizer, race_now: Callable[[MetaHistory], None]) -> MetaHistory:
    """Meta-train the rule, and redraw the picture every ten seconds."""
    print(LEGEND.format(steps=demo.config.meta_steps, window=demo.config.unroll_length))
    checkpoint = demo.folder / "rule.pt"
    if demo.args.resume and not checkpoint.exists():
        print(f"There is no {checkpoint} to resume, so this run starts from the beginning.")
    if not demo.args.resume and checkpoint.exists():
        print(f"The rule of an earlier run is kept as {demo.folder / PREVIOUS[0]}.")
    for name, previous in zip(LEARNED, PREVIOUS):
        if not demo.args.resume and (demo.folder / name).exists():
            (demo.folder / name).replace(demo.folder / previous)
    drawn_at = time.monotonic()

    def redraw(history: MetaHistory) -> None:
        nonlocal drawn_at
        if time.monotonic() > drawn_at + SECONDS_BETWEEN_PICTURES:
            race_now(history)
            drawn_at = time.monotonic()

    return train(demo, rule, checkpoint.name, redraw)


def train(
    demo: Demo,
    rule: MetaOptimizer,
    name: str,
    on_step: Callable[[MetaHistory], None] = lambda history: None,
) -> MetaHistory:
    """Meta-train with a line of progress, and a checkpoint called ``name``."""
    files = {"checkpoint": demo.folder / name, "resume": demo.args.resume}
    with Progress(demo.config.meta_steps) as progress:

        def watch(history: MetaHistory) -> None:
            last = history.records[-1]
            text = f"loss {last.meta_loss:.3f}  lr {last.signals['lr']:.3f}"
            text += f"  momentum {last.signals['momentum']:.2f}"
            text += f"  hypergradient {last.grad_norm:.3f}"
            progress.show(last.step, text + "  skipped: not finite" * last.skipped)
            on_step(history)

        history = meta_train(rule, demo.family, demo.config, **files, on_step=watch)
        if not progress.task.completed:
            progress.show(demo.config.meta_steps, "learned in an earlier run")
    return history


def race_both(
    demo: Demo, learned: dict[str, MetaOptimizer], untrained: MetaOptimizer
) -> tuple[RaceResult, RaceResult]:
    """Race for H steps; then for 5 H, with the best constant of the short race carried on too."""
    settings = {**(QUICK_RACE if demo.args.quick else FULL_RACE), "replay": [RULE]}
    print(
        "\nThe race: each baseline is tuned on meta-training tasks for the horizon it is raced at."
    )
    done = 0
    # A race for 5 H takes five times as long.
    with Progress(6 * (2 * len(BASELINES) + len(learned) + 1)) as progress:

        def run_for(horizon: int, **others: MetaOptimizer | HandMade) -> RaceResult:
            def watch(entrant: str) -> None:
                nonlocal done
                progress.show(done, entrant)
                done += horizon // demo.args.horizon

            return race({**learned, **others}, demo.family, horizon, **settings, on_entry=watch)

        short = run_for(demo.args.horizon, **{UNTRAINED: untrained})
        long = run_for(5 * demo.args.horizon, **{CARRIED_ON: short.tuned["best constant"]})
        progress.show(done, "both races are over")
    return short, long


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    args = parse(arguments)
    try:
        run(args)
    except (ValueError, TypeError, OSError, MetaTrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        flags = [*(sys.argv[1:] if arguments is None else arguments)]
        again = shlex.join(["python", "main.py", *flags, *([] if args.resume else ["--resume"])])
        if (args.out / "rule.pt").exists():
            print(f"\nStopped. What was learned is saved in {args.out}/; go on with: {again}")
        else:
            print(f"\nStopped before anything was learned; start again with: {again}")
        return 130
    return 0


if __name__ == "__main__":
    if HEARS_CTRL_C:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
