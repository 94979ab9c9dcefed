"""Compare strategies against forgetting.   python -m nested.continual [--preset realistic] [...]

Source: ``nested.continual.experiment``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nested.continual.config import PRESETS, ContinualConfig
from nested.continual.experiment import BACKENDS, compare, stream_of
from nested.continual.registry import STRATEGIES
from nested.continual.report import save_report
from nested.continual.stream import KINDS
from nested.support.settings import from_preset, settings_from
from nested.tasks.data_sets import DATA

NUMBERS = {
    "tasks": "tasks of the stream",
    "blur": "share of examples of classes to come",
    "interference": "share of examples of past tasks",
    "ood": "share of examples out of distribution",
    "batch-size": "examples of a batch",
    "epochs": "passes over each task",
    "width": "units of a layer, or channels",
    "copies": "numbers stored, in copies of the net",
    "examples": "more numbers stored, in examples",
    "limit": "examples of each class at most",
    "seeds": "streams to measure on",
    "seed": "of the first stream; default 0",
    "trials": "settings that tuning tries",
    "tuning-seeds": "streams of a good trial",
}
QUICK = {"limit": 50, "seeds": 2, "trials": 1, "tuning_seeds": 1}


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    args = _parser().parse_args(arguments)
    try:
        names = vars(ContinualConfig()).keys() & vars(args).keys()
        flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        settings = settings_from(args.config, "continual") if args.config else {}
        few = QUICK if args.quick else {}
        config = from_preset(PRESETS, args.preset, {**few, **settings, **flags})
        stream = stream_of(config, config.seed)
        print(stream.describe(), flush=True)
        more = {"jobs": args.jobs, "backend": args.backend, "resume": args.resume}
        comparison = compare(config, args.out, **more)
        print(save_report(comparison, config, stream, args.out))
        print(f"report.json, report.md and four pictures are in {args.out}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; go on with the same flags and --resume", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nested.continual", description="Compare strategies against forgetting."
    )
    parser.add_argument("--preset", default="realistic", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--quick", action="store_true", help="few trials and streams: does it run?")
    parser.add_argument("--config", type=Path, help="a YAML file of settings")
    parser.add_argument("--data", help=f"one of {', '.join(DATA)}")
    parser.add_argument("--path", help="where the data are, if they are files")
    parser.add_argument("--kind", help=f"of the stream: {', '.join(KINDS)}")
    names = ", ".join(STRATEGIES)
    parser.add_argument("--strategies", nargs="+", metavar="S", help=f"some of: {names}")
    parser.add_argument("--net", help="mlp or conv")
    for name, text in NUMBERS.items():
        kind = float if name in ("blur", "interference", "ood", "copies") else int
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    parser.add_argument("--device", help="auto, cpu, cuda or mps; default auto")
    parser.add_argument("--precision", help="float32 or bfloat16")
    help_text = "store fewer activations: slower, less memory"
    parser.add_argument("--checkpointing", action="store_true", default=None, help=help_text)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--backend", choices=BACKENDS, default="loky", help="of joblib")
    parser.add_argument("--out", type=Path, default=Path("runs/continual"), help="folder of it all")
    parser.add_argument("--resume", action="store_true", help="go on with the runs in --out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
