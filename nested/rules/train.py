"""Teach a rule per coordinate.   python -m nested.rules.train --out rule.safetensors

Source: the curriculum is ours; tasks of many shapes after Metz et al. 2022 (arXiv 2211.09760).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from torch import Generator, nn

from nested.meta.config import MetaConfig
from nested.meta.training import MetaHistory, MetaTrainingError, meta_train
from nested.rules.coordinatewise import CoordinatewiseRule
from nested.rules.pretrained import save_rule
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

QUICK = {"meta_steps": 20, "unroll_length": 20, "max_horizon": 20, "lr": 0.01}
WHOLE = {
    "unroll_length": 10,
    "max_horizon": 700,
    "groups": 8,
    "rescale": 2.0,
    "trust": 10.0,
    "lr": 0.003,
}


def curriculum() -> list[TaskFamily]:
    """The families that rules are taught on: nets of several widths, depths and activations at
    several batch sizes, the plain one most often. All else is held out: see ``transfer``."""
    return [
        *[Digits() for _ in range(2)],
        Digits(hidden=96),
        Digits(hidden=24, depth=2, batch_size=16),
        Digits(hidden=64, batch_size=16),
        Digits(hidden=16, depth=2, batch_size=64),
        Digits(hidden=48, activation=nn.Tanh),
        Quadratics(),
    ]


def transfer() -> dict[str, TaskFamily]:
    """The families that no rule of this package was taught on."""
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


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the flags; wrong ones end the program with usage."""
    parser = argparse.ArgumentParser(prog="python -m nested.rules.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/rule.safetensors"), help="the file")
    parser.add_argument("--steps", type=int, default=4000, help="meta-steps (default: 4000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="digits alone, for five seconds")
    parser.add_argument("--resume", action="store_true", help="go on from the file's checkpoint")
    return parser.parse_args(arguments)


def teach(args: argparse.Namespace) -> None:
    """Train a rule as the flags say, and save it with its card. Raises ``ValueError`` for values
    that are not allowed, ``MetaTrainingError`` when training breaks down."""
    started = time.monotonic()
    settings = QUICK if args.quick else {**WHOLE, "meta_steps": args.steps}
    shared = {"tasks": 8, "objective": "log", "horizons": "log-uniform", "max_skips": 50}
    config = MetaConfig(**settings, **shared, seed=args.seed)
    prepare_folder(args.out.parent, args.out.name)
    families = [Digits()] if args.quick else curriculum()
    rule = CoordinatewiseRule(generator=Generator().manual_seed(args.seed))
    progress = Progress(config.meta_steps)

    def watch(history: MetaHistory) -> None:
        last = history.records[-1]
        said = f"log loss {last.meta_loss:6.3f}  lr {last.signals['lr']:.4f}"
        progress.show(last.step, f"{said}  hyper {last.grad_norm:.2f}  skipped {history.skipped}")

    checkpoint = args.out.with_suffix(".pt")
    history = meta_train(
        rule, families, config, checkpoint=checkpoint, resume=args.resume, on_step=watch
    )
    seconds = time.monotonic() - started
    flags = ["--steps", str(args.steps), "--seed", str(args.seed)] + ["--quick"] * args.quick
    card = {
        "command": shlex.join(["python", "-m", "nested.rules.train", *flags]),
        "seconds": round(seconds),
        "taught on": [_describe(family) for family in families],
        "held out": list(transfer()),
        "skipped updates": history.skipped,
    }
    save_rule(args.out, rule, card)
    print(f"Saved {args.out} after {seconds:.0f} s.")


def _describe(family: TaskFamily) -> str:
    plain = (int, float, str)
    own = {n: v for n, v in vars(family).items() if isinstance(v, plain) and n != "is_held_out"}
    return f"{type(family).__name__}({', '.join(f'{n}={v}' for n, v in own.items())})"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    args = parse(arguments)
    try:
        teach(args)
    except (ValueError, OSError, MetaTrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; go on with --resume and the same flags.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
