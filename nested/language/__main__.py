"""A language model that goes on learning.   python -m nested.language COMMAND [...]

Commands: prepare, train, generate, chat, serve and evaluate. Each has --help.
Source: ``nested.language.commands``.
"""

from __future__ import annotations

import argparse
import sys

from nested.language.commands import COMMANDS
from nested.support.checks import check_seed

CHECKPOINT_HELP = "a folder, a file, or a shipped name; default nano"
NO_MEMORY = ("out of memory", "allocate memory")  # in the errors of PyTorch


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m nested.language", description=__doc__.splitlines()[0].split(".")[0] + "."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        sub.add_argument("--seed", type=int, help="of everything that is drawn; default 0")
        sub.add_argument("--device", help="auto, cpu, cuda or mps; default auto")
        if name != "train":  # whose settings can come from a file
            sub.set_defaults(seed=0, device="auto")
        if name not in ("prepare", "train"):
            sub.add_argument("--checkpoint", default="nano", help=CHECKPOINT_HELP)
        command.add_arguments(sub)
    args = parser.parse_args(arguments)
    try:
        check_seed(args.seed or 0)
        COMMANDS[args.command].run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(w in str(error) for w in NO_MEMORY):
            raise
        print("error: there is not enough memory: take smaller sizes", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
