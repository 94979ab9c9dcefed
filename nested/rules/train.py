"""Train a rule per coordinate.   python -m nested.rules.train --out rule.safetensors

Source: training on tasks of many shapes follows Metz et al. 2022 (arXiv 2211.09760).
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from nested.meta.baselines import Draw, draw_tasks
from nested.meta.config import MetaConfig
from nested.meta.history import MetaHistory
from nested.meta.objective import meta_loss
from nested.meta.training import MetaTrainingError, run_training
from nested.rules.coordinatewise import CoordinatewiseRule
from nested.rules.pretrained import measure_net, read_card, save_rule
from nested.rules.rule_training import RuleConfig, RuleTraining
from nested.support.files import prepare_folder
from nested.support.progress import Progress
from nested.tasks import (
    ByteRNN,
    DigitConvolutions,
    Digits,
    Glyphs,
    Quadratics,
    Rosenbrock,
    Sinusoids,
    TaskFamily,
)
from nested.unroll.batched import unroll_tasks

TRIAL_EVERY, TRIAL_TASKS, TRIAL_STEPS = 250, 8, 100  # meta-steps, tasks of a family, inner steps
QUICK = {"tasks": 8, "meta_steps": 20, "unroll_length": 20, "max_horizon": 20, "lr": 0.01}
WHOLE = {
    "unroll_length": 10,  # with 20, hypergradients explode, and a meta-step takes twice the time
    "max_horizon": 700,
    "tasks": 16,
    "groups": 8,
    "random_rescale": 1.2,
    "explode_at": 10.0,
    "lr": 0.0015,  # long trainings collapse at twice this rate
}


def curriculum() -> list[TaskFamily]:
    """List the families that rules are trained on; the families of ``transfer`` are held out.

    They are nets of several widths, depths and activations at several batch sizes; the plain net
    comes most often. Bowls are not among them: steps that suit a bowl kill the units of a net, and
    from dead nets a rule learns nothing.
    """
    return [
        *[Digits() for _ in range(4)],
        Digits(hidden=64, batch_size=16),
        Digits(hidden=16, depth=2, batch_size=64),
        Digits(hidden=48, activation=nn.Tanh),
    ]


def transfer() -> dict[str, TaskFamily]:
    """List the families that no rule of this package was trained on, by name."""
    return {
        "4 x wider": Digits(hidden=128),
        "two layers deeper": Digits(depth=3),
        "convolution": DigitConvolutions(),
        "glyphs": Glyphs(),
        "regression": Sinusoids(),
        "bowls": Quadratics(condition=100.0),
        "Rosenbrock": Rosenbrock(),
        "text": ByteRNN(),
    }


def taught_range(families: Sequence[TaskFamily], config: MetaConfig) -> dict[str, tuple[int, int]]:
    """Return the smallest and the largest of each size of the nets and runs in training."""
    drawn = [family.sample(Generator().manual_seed(0)) for family in families]
    nets = [task.init(Generator().manual_seed(0)).values() for task in drawn]
    sizes = [measure_net([tuple(p.shape) for p in net]) for net in nets]
    ranges = {name: [size[name] for size in sizes] for name in sizes[0]}
    ranges["steps"] = [config.unroll_length, config.max_horizon]
    return {name: (min(values), max(values)) for name, values in ranges.items()}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the flags; wrong ones end the program with usage."""
    parser = argparse.ArgumentParser(prog="python -m nested.rules.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/rule.safetensors"), help="the file")
    parser.add_argument("--steps", type=int, default=2500, help="meta-steps (default: 2500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a short training on digits alone")
    parser.add_argument("--resume", action="store_true", help="continue from the file's checkpoint")
    return parser.parse_args(arguments)


def teach(args: argparse.Namespace) -> None:
    """Train a rule as the flags say, and save it with its card. Raises ``ValueError`` for values
    that are not allowed, and ``MetaTrainingError`` if training breaks down."""
    started = time.monotonic()
    settings = QUICK if args.quick else {**WHOLE, "meta_steps": args.steps}
    shared = {"objective": "log", "max_skips": 50}
    config = RuleConfig(**settings, **shared, seed=args.seed)
    prepare_folder(args.out.parent, args.out.name)
    families = [Digits()] if args.quick else curriculum()
    card = _card(args, families, config)
    rule = CoordinatewiseRule(generator=Generator().manual_seed(args.seed))
    draws = [] if args.quick else [_trial(family, args.seed) for family in families]
    progress = Progress(config.meta_steps)
    before = read_card(args.out) if args.resume and args.out.exists() else {}
    is_resumed = before.get("command") == card["command"]
    best = before["log loss in trials"] if is_resumed else math.inf

    def keep_if_best(step: int) -> None:
        nonlocal best
        score = sum(_score(rule, draw) for draw in draws) / max(len(draws), 1)
        if score <= best:
            best = score
            seconds = round(time.monotonic() - started)
            numbers = {"meta-steps": step, "log loss in trials": score, "seconds": seconds}
            if is_resumed:
                numbers["seconds count from"] = "the last resume"
            save_rule(args.out, rule, {**card, **numbers})

    def watch(history: MetaHistory) -> None:
        last = history.records[-1]
        trial = f"  best trial {best:.3f}" if best < math.inf else ""
        text = f"log loss {last.meta_loss:6.3f}{trial}  hypergradient {last.grad_norm:.2f}"
        progress.show(last.step, f"{text}  skipped {history.skipped}")
        if last.step % TRIAL_EVERY == 0 or last.step == config.meta_steps:
            keep_if_best(last.step)

    checkpoint = args.out.with_name(args.out.name + ".checkpoint")
    with progress:
        training = RuleTraining(rule, families, config)
        run_training(training, checkpoint, args.resume, on_step=watch)
    print(f"Saved {args.out} after {time.monotonic() - started:.0f} s.")


def _card(
    args: argparse.Namespace, families: Sequence[TaskFamily], config: MetaConfig
) -> dict[str, Any]:
    """What is known of the rule before it is trained."""
    length = ["--quick"] if args.quick else ["--steps", str(args.steps)]
    flags = [*length, "--seed", str(args.seed)]
    return {
        "command": shlex.join(["python", "-m", "nested.rules.train", *flags]),
        "taught on": [_describe(family) for family in families],
        "held out": list(transfer()),
        "taught range": taught_range(families, config),
    }


def _trial(family: TaskFamily, seed: int) -> Draw:
    """Draw tasks of the meta-training side for trials alone."""
    return draw_tasks(family, TRIAL_TASKS, TRIAL_STEPS, Generator().manual_seed(2**30 + seed))


def _score(rule: CoordinatewiseRule, draw: Draw) -> float:
    """Average the "log" meta-loss of runs of ``TRIAL_STEPS`` steps and of a fifth of them."""
    total = 0.0
    for steps in (TRIAL_STEPS // 5, TRIAL_STEPS):
        informed, batches = rule.for_horizon(steps), draw.batches[:steps]
        run = unroll_tasks(draw.loss_fn, draw.params, batches, informed, differentiable=False)
        with torch.no_grad():
            total += meta_loss(draw.loss_fn, run, draw.query, "log").item() / 2
    return total if math.isfinite(total) else math.inf


def _describe(family: TaskFamily) -> str:
    """Write a family and its settings as text for a card."""
    plain, left_out = (int, float, str, dict, tuple), ("is_held_out", "device")
    settings = {n: v for n, v in vars(family).items() if isinstance(v, plain) and n not in left_out}
    return f"{type(family).__name__}({', '.join(f'{n}={v}' for n, v in settings.items())})"


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    args = parse(arguments)
    try:
        teach(args)
    except (ValueError, OSError, MetaTrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; continue with --resume and the same flags.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
