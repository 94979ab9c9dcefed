"""The commands of ``python -m nested.language``: their flags, and what each runs.

Source: ``argparse``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Generator

from nested.language.chat import THEM, YOU, Chat
from nested.language.checkpoint import load
from nested.language.config import OPTIMIZERS, PRESETS, TRANSFORMER, TrainConfig
from nested.language.dashboard import Dashboard
from nested.language.engine import Engine, Limits
from nested.language.run import train
from nested.language.text import prepare
from nested.language.writing import generate
from nested.models.mixers import MIXERS
from nested.support.device import find_device
from nested.support.extras import needed
from nested.support.files import prepare_folder
from nested.support.filters import FilterConfig
from nested.support.logs import LOGS, log_to
from nested.support.settings import from_preset, settings_from

Parser = argparse.ArgumentParser
OUT = Path("runs/language")


class Command(NamedTuple):
    """One command: a line of help, a function that adds its flags, and one that runs it."""

    help: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], None]


def _add_prepare(parser: Parser) -> None:
    parser.add_argument("--data", nargs="+", default=["shakespeare"], help="files, folders, names")
    parser.add_argument("--out", type=Path, default=OUT / "text", help="folder of the tokens")
    parser.add_argument("--vocab", type=int, help="tokens of a BPE; bytes without it")
    parser.add_argument("--held-out", type=float, default=0.15, help="share of documents kept back")
    parser.add_argument("--limit", type=int, help="documents to read at most")
    for name, default in vars(FilterConfig()).items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"default {default}")


def _prepare(args: argparse.Namespace) -> None:
    filters = FilterConfig(**{name: getattr(args, name) for name in vars(FilterConfig())})
    sizes = {"vocab": args.vocab, "held_out": args.held_out, "limit": args.limit}
    prepare(args.data, args.out, filters=filters, **sizes)


NUMBERS = {
    "minutes": (float, "time to train"),
    "steps": (int, "steps to train, in place of minutes"),
    "batch-size": (int, "texts side by side"),
    "length": (int, "tokens of a window"),
    "text-length": (int, "tokens that a text is read on, window by window"),
    "accumulate": (int, "windows of each text for one step"),
    "lr": (float, "highest rate"),
    "facts": (float, "share of texts that state facts and ask for them"),
    "dim": (int, "width of the model"),
    "layers": (int, "blocks of the model"),
    "heads": (int, "heads of attention or of memories"),
    "chunk": (int, "tokens that a memory reads at once"),
    "detach-every": (int, "tokens after which gradients are cut"),
    "vocab": (int, "tokens of a BPE; bytes without it"),
}
PRESET_HELP = f"all settings: {', '.join(PRESETS)}; flags change them"
CARRY_HELP = "carry the memory from window to window"


def _add_train(parser: Parser) -> None:
    parser.add_argument("--preset", default="nano", help=PRESET_HELP)
    parser.add_argument("--config", type=Path, help="a YAML file of settings")
    parser.add_argument("--data", nargs="+", help="files, folders, names, or a prepared folder")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the training")
    parser.add_argument("--mixer", help=f"one of {', '.join([*MIXERS, TRANSFORMER])}")
    parser.add_argument("--optimizer", help=f"one of {', '.join(OPTIMIZERS)}")
    for name, (kind, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind, metavar=name[0].upper(), help=text)
    parser.add_argument("--precision", help="float32 or bfloat16")
    for name, text in {"carry": CARRY_HELP, "compile": "compile the model"}.items():
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=text)
    parser.add_argument("--resume", action="store_true", help="go on with the training in --out")
    parser.add_argument("--keep", type=int, default=0, help="models of the last measures to keep")
    parser.add_argument("--log", nargs="+", default=[], help=f"also to {', '.join(LOGS)}")
    parser.add_argument("--parallel", help="ddp or fsdp, for the processes of torchrun")


def _train(args: argparse.Namespace) -> None:
    names = vars(TrainConfig()).keys() & vars(args).keys()
    flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings = settings_from(args.config, "language") if args.config else {}
    config = from_preset(PRESETS, args.preset, {**settings, **flags})
    more = {name: getattr(args, name) for name in ("resume", "keep", "parallel")}
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun
    out = sys.stdout if is_first else open(os.devnull, "w")
    with Dashboard(f"{args.preset}, {config.mixer}, {config.optimizer}", out) as board:
        logs = (log_to(name, prepare_folder(args.out)) for name in args.log if is_first)
        shows = [board.show, *logs]
        history = train(config, args.out, **more, show=lambda r: [show(r) for show in shows])
    if history.finished:
        print(f"{history.best:.3f} bits a byte at best; the model is in {args.out}", file=out)
    else:
        print("stopped; go on with the same flags and --resume", file=out)


def _add_sampling(parser: Parser) -> None:
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float, default=0.9)


def _add_generate(parser: Parser) -> None:
    parser.add_argument("--prompt", default="\n", help="the text to go on from")
    parser.add_argument("--tokens", type=int, default=500, help="tokens to write at most")
    _add_sampling(parser)
    parser.add_argument("--penalty", type=float, default=1.0, help="on tokens written before")
    parser.add_argument("--stop", nargs="+", default=[], help="texts before which it ends")


def _generate(args: argparse.Namespace) -> None:
    model, coder = load(args.checkpoint)
    model, generator = model.to(find_device(args.device)), Generator().manual_seed(args.seed)
    names = ("temperature", "top_k", "top_p", "penalty", "stop")
    settings = {name: getattr(args, name) for name in names}
    writing = generate(model, coder, args.prompt, args.tokens, generator=generator, **settings)
    print(args.prompt, end="", flush=True)
    for piece in writing:
        print(piece, end="", flush=True)
    print()


def _add_chat(parser: Parser) -> None:
    parser.add_argument("--you", default=YOU, help="the name in front of your words")
    parser.add_argument("--them", default=THEM, help="the name in front of the answers")
    parser.add_argument("--tokens", type=int, default=300, help="tokens of an answer at most")
    _add_sampling(parser)


def _chat(args: argparse.Namespace) -> None:
    model, coder = load(args.checkpoint)
    names = ("you", "them", "tokens", "temperature", "top_k", "top_p")
    chat = Chat(
        model.to(find_device(args.device)),
        coder,
        lambda text: print(text, end="", flush=True),
        generator=Generator().manual_seed(args.seed),
        **{name: getattr(args, name) for name in names},
    )
    print("/help lists the commands, /quit leaves.")
    while True:
        try:
            if not chat.turn(input(f"{args.you}: ")):
                return
        except KeyboardInterrupt:
            print("\n/quit leaves")
        except EOFError:
            print()
            return


def _add_evaluate(parser: Parser) -> None:
    parser.add_argument("--data", nargs="+", default=["shakespeare"], help="texts to measure on")
    parser.add_argument("--out", type=Path, default=OUT / "report", help="folder of the report")
    parser.add_argument("--classes", type=Path, help="JSONL of text and label")
    parser.add_argument("--choices", type=Path, help="JSONL of question, choices and answer")
    parser.add_argument("--quick", action="store_true", help="few and short texts")


def _evaluate(args: argparse.Namespace) -> None:
    from nested.language.evaluate import evaluate  # its pictures are slow to import

    model, coder = load(args.checkpoint)
    names = ("data", "classes", "choices", "quick", "seed")
    more = {name: getattr(args, name) for name in names}
    evaluate(model.to(find_device(args.device)), coder, args.out, **more)
    print(f"report.json, report.md and report.png are in {args.out}")


def _add_serve(parser: Parser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--token", default=os.environ.get("NESTED_TOKEN"), help=TOKEN_HELP)
    parser.add_argument("--page", action="store_true", help="also a page to chat on, at /")
    for name, default in vars(Limits()).items():
        text = f"{LIMITS[name]}; default {default:,}"
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)


TOKEN_HELP = "what clients must send as their key; else taken from NESTED_TOKEN"
LIMITS = {
    "together": "texts written side by side",
    "waiting": "requests that may wait",
    "patience": "seconds that a request waits, or its body takes",
    "tokens": "tokens of a prompt and its answer",
    "seconds": "seconds of an answer",
    "sessions": "memories kept",
    "idle": "seconds after which an unused memory is dropped",
    "numbers": "numbers of a memory",
    "body": "bytes of a request",
}


def _serve(args: argparse.Namespace) -> None:
    for library in ("fastapi", "uvicorn"):
        needed(library, "serve")
    from nested.language.server import serve

    mount = None
    if args.page:
        needed("gradio", "page")
        from nested.language.page import mount_page as mount
    limits = Limits(**{name: getattr(args, name) for name in vars(Limits())})
    model, coder = load(args.checkpoint)
    engine = Engine(model.to(find_device(args.device)), coder, limits)
    name = Path(args.checkpoint).resolve().name.removesuffix(".pt")
    serve(engine, name, host=args.host, port=args.port, token=args.token or None, mount=mount)


COMMANDS = {
    "prepare": Command("Turn texts into tokens.", _add_prepare, _prepare),
    "train": Command("Train a model, and watch it.", _add_train, _train),
    "generate": Command("Write text.", _add_generate, _generate),
    "chat": Command("Talk with a model, and tell it things.", _add_chat, _chat),
    "evaluate": Command("Measure recall, forgetting and bits a byte.", _add_evaluate, _evaluate),
    "serve": Command("Serve a model to OpenAI's clients.", _add_serve, _serve),
}
