"""Watch a small net learn how to train another net on real handwritten digits.

    python main.py              the demo, under a minute on two cores
    python main.py --quick      a small version of everything, to see that it works
    python main.py --resume     go on where a stopped run was

Results go to runs/: race.png (the picture), race.json (the numbers), rule.pt (what was learned).
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
import itertools
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Generator

from nested import MetaConfig, MetaOptimizer, meta_train, race
from nested.meta.baselines import HandMade
from nested.meta.history import MetaHistory
from nested.meta.race import RaceResult
from nested.meta.report import draw_report, table, verdict
from nested.meta.training import MetaTrainingError
from nested.meta.tuned import BASELINES
from nested.support.device import DEVICES, find_device
from nested.support.files import prepare_folder, save_json
from nested.support.progress import Progress
from nested.tasks import FAMILIES, TaskFamily
from nested.unroll.dispatch import BACKENDS

RULE = "the rule"
CARRIED_ON = "constant of the short race"
UNTUNED = {
    "SGD, lr 0.1": HandMade(torch.optim.SGD, {"lr": 0.1}),
    "Adam, lr 0.001": HandMade(torch.optim.Adam, {"lr": 0.001}),
}
SECONDS_BETWEEN_PICTURES = 10.0
QUICK = {"meta_steps": 60, "tasks": 8}
FULL_RACE, QUICK_RACE = {"tasks": 128, "tuning_tasks": 32}, {"tasks": 64, "tuning_tasks": 16}

LADDER = """
A learning system is a stack of levels, each with a state, something it sees, and a clock:

  level               state              it sees                   it moves
  1 forward pass      none               a batch of examples       every batch
  2 momentum buffer   {weights:>6,} numbers     gradients                 every batch
  3 slow weights      {weights:>6,} numbers     the momentum buffer       every batch
  4 MetaOptimizer     {rule:>6,} numbers     loss, step, gradients     every {window} batches

Levels 1 to 3 are momentum SGD. Level 4, a small net, picks the learning rate and the momentum of
every step. It learns to by differentiating through {window} steps at a time: that derivative is the
hypergradient.
"""

LEGEND = """
Meta-training: {steps} updates of level 4. The line is about the last window of {window} steps:
  loss   mean loss of the inner nets after each step: what level 4 learns to lower
  lr     the learning rate that level 4 picked, mean over tasks and steps
  mom    the momentum that it picked, likewise
  hyper  length of the hypergradient before clipping: how steeply level 4 could still improve here
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the flags; wrong ones end the program with usage."""
    defaults = MetaConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--family", choices=FAMILIES, default="digits", help="the inner problems (default: digits)"
    )
    parser.add_argument(
        "--horizon",
        type=int,
        default=20,
        metavar="H",
        help="race at H inner steps and at 5 H (default: 20)",
    )
    parser.add_argument(
        "--unroll-length",
        type=int,
        metavar="K",
        help="inner steps that one hypergradient looks through"
        f" (default: {defaults.unroll_length})",
    )
    parser.add_argument(
        "--meta-steps",
        type=int,
        metavar="N",
        help=f"updates of level 4 (default: {defaults.meta_steps}, or {QUICK['meta_steps']} with"
        " --quick)",
    )
    parser.add_argument(
        "--tasks",
        type=int,
        metavar="T",
        help=f"inner nets trained side by side (default: {defaults.tasks}, or {QUICK['tasks']} with"
        " --quick)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of all that is random, except the race's tasks (default: 0)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto (the default) takes cuda, then mps, then cpu, as there is",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="eager",
        help="what unrolls in meta-training; higher is a slow cross-check (default: eager)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder for the results (default: runs)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint in the folder, if there is one; ends with the numbers of a"
        " run never stopped",
    )
    parser.add_argument(
        "--quick", action="store_true", help="less of everything: about 12 seconds, weaker results"
    )
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


def run(args: argparse.Namespace) -> None:
    """The demo: introduce, race, learn, race again, say what came out."""
    started = time.monotonic()
    config, device = configure(args), find_device(args.device)
    folder = prepare_folder(args.out, "race.png", "race.json", "rule.pt", "rule.previous.pt")
    family = FAMILIES[args.family](device=device)
    rule = MetaOptimizer(generator=Generator().manual_seed(args.seed)).to(device)

    def race_now(history: MetaHistory, stage: str) -> RaceResult:
        result = race({RULE: rule, **UNTUNED}, family, args.horizon, tasks=64, baselines={})
        title = f"{args.family}: level 4 {stage}"
        draw_report(folder / "race.png", [result], history, RULE, title=title)
        return result

    show_ladder(rule, family, config)
    if not (args.resume and (folder / "rule.pt").exists()):
        print("First a race of level 4 untrained, on tasks that meta-training never uses:\n")
        print(table(race_now(MetaHistory(), "is untrained"), RULE), flush=True)
    history = learn(args, rule, family, config, folder / "rule.pt", race_now)
    learned = time.monotonic()
    races = race_both(rule, family, args)
    words = verdict(*races, RULE)
    print("\n".join(["", table(races[0], RULE), "", table(races[1], RULE), "", words, ""]))
    seconds = {"until_learned": learned - started, "in_all": time.monotonic() - started}
    report = {
        "family": args.family,
        "config": asdict(config),
        "races": [result.summary(RULE) for result in races],
        "skipped_updates": history.skipped,
        "verdict": words,
        "seconds": seconds,
    }
    save_json(folder / "race.json", report)
    title = f"{args.family}: level 4 after {config.meta_steps} meta-steps, seed {args.seed}"
    draw_report(folder / "race.png", races, history, RULE, title=title)
    seconds = time.monotonic() - started
    print(f"Saved race.png, race.json and rule.pt in {folder}/ after {seconds:.0f} s.")


def show_ladder(rule: MetaOptimizer, family: TaskFamily, config: MetaConfig) -> None:
    """Print each level: its state, what it sees, when it moves."""
    weights = family.sample(Generator().manual_seed(0)).init(Generator().manual_seed(0))
    print(
        LADDER.format(
            weights=sum(w.numel() for w in weights.values()),
            rule=sum(p.numel() for p in rule.parameters()),
            window=config.unroll_length,
        )
    )


def learn(
    args: argparse.Namespace,
    rule: MetaOptimizer,
    family: TaskFamily,
    config: MetaConfig,
    checkpoint: Path,
    race_now: Callable[[MetaHistory, str], RaceResult],
) -> MetaHistory:
    """Meta-train with a progress line, and redraw the picture every ten seconds."""
    print(LEGEND.format(steps=config.meta_steps, window=config.unroll_length))
    if args.resume and not checkpoint.exists():
        print(f"There is no {checkpoint} to resume, so this run starts from the beginning.")
    if not args.resume and checkpoint.exists():
        checkpoint.replace(checkpoint.with_name("rule.previous.pt"))
        print(f"The rule of an earlier run is kept as {checkpoint.with_name('rule.previous.pt')}.")
    progress, drawn_at = Progress(config.meta_steps), time.monotonic()

    def watch(history: MetaHistory) -> None:
        nonlocal drawn_at
        last = history.records[-1]
        text = f"loss {last.meta_loss:.3f}  lr {last.signals['lr']:.3f}"
        text += f"  mom {last.signals['momentum']:.2f}  hyper {last.grad_norm:.3f}"
        progress.show(last.step, text + "  skipped: not finite" * last.skipped)
        if time.monotonic() > drawn_at + SECONDS_BETWEEN_PICTURES:
            race_now(history, f"after {last.step} of {config.meta_steps} meta-steps")
            drawn_at = time.monotonic()

    with progress:
        return meta_train(
            rule, family, config, checkpoint=checkpoint, resume=args.resume, on_step=watch
        )


def race_both(
    rule: MetaOptimizer, family: TaskFamily, args: argparse.Namespace
) -> tuple[RaceResult, RaceResult]:
    """Race for H steps; then for 5 H, with the best constant of the short race carried on too."""
    sizes = QUICK_RACE if args.quick else FULL_RACE
    print(
        "\nThe race: every baseline is tuned on meta-training tasks for the horizon it is raced at."
    )
    clock = Progress(2 * (2 * len(BASELINES) + 1) + 1)
    steps = itertools.count(1)

    def watch(what: str) -> None:
        clock.show(next(steps), what)

    with clock:
        short = race({RULE: rule}, family, args.horizon, **sizes, on_entry=watch)
        entrants = {RULE: rule, CARRIED_ON: short.tuned["best constant"]}
        return short, race(entrants, family, 5 * args.horizon, **sizes, on_entry=watch)


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
