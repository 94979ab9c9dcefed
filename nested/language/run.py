"""Train a language model in a folder: measured, logged, saved every few seconds, and resumed.

Letters: B pieces of held-out text, T tokens of a piece.
Source: the folder of a training holds last.pt, best.pt, log.jsonl and, in text/, its tokens.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from nested.language.checkpoint import BEST, LAST, read_model, save_model
from nested.language.config import TrainConfig, plain
from nested.language.measures import bits_per_byte, even_pieces
from nested.language.text import ABOUT, Text, prepare
from nested.language.training import Training
from nested.language.writing import generate
from nested.models.movement import movement
from nested.models.processes import Processes, joined
from nested.support.device import peak_memory
from nested.support.files import prepare_folder, write_whole

LOG, TEXT, STEP, SHARDS = "log.jsonl", "text", "step-{:0>8}.pt", "shards-{:0>8}-{}"
MEASURES = 40  # of held-out text, over a whole training
PIECES, PIECE = 16, 1024  # of held-out text, in tokens
SAMPLE = 160  # tokens
SHOW_EVERY = 1.0  # seconds
SAVE_EVERY, SAVE_SHARE = 5.0, 20  # seconds, and at least as many times what a save took
TRIAL_STEPS, RESERVE = 12, 0.9  # steps that measure the speed; share of the minutes for steps
CHOSEN_LATER = {"steps", "device", "compile"}  # settings that a resumed run may change

Record = dict[str, Any]


class History(NamedTuple):
    """What ``train`` measured: ``records`` as in log.jsonl, the ``best`` bits a byte, and whether
    it is ``finished``."""

    records: list[Record]
    best: float
    finished: bool


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    keep: int = 0,
    parallel: str | None = None,
    show: Callable[[Record], None] = lambda record: None,
) -> History:
    """Train a model by ``config`` in the folder ``out``.

    Held-out text is measured 40 times, and each record goes to log.jsonl and to ``show``, which
    also learns every second how far the training is. The file
    last.pt is saved every five seconds, or less often if a save takes long. The file best.pt is
    saved after the best measure. The models of the last ``keep`` measures are kept too. Ctrl-C ends
    training after its step, and saves; a second one raises ``KeyboardInterrupt``. With ``resume`` a
    training goes on, bit for bit on a CPU.

    Under torchrun all processes train one model, as ``parallel`` says: "ddp" or "fsdp". They share
    the texts of each batch, and save in shards; any number of processes can resume.

    Raises ``ValueError`` if there is a training in ``out`` already, none to resume, or one with
    other settings or tokens, and for a ``keep`` under 0.
    """
    if keep < 0:
        raise ValueError(f"keep is 0 models or more, but got {keep}")
    with joined(parallel, config.device) as processes, _interruptible() as is_interrupted:
        if processes.rank == 0:
            prepare_folder(out)
        session = _Session(config, Path(out), resume, keep, show, processes)
        while session.run.step < session.run.total and not processes.total(is_interrupted()):
            session.take_step()
        session.save()
    return History(session.records, session.best, session.run.step >= session.run.total)


class _Session:
    """One call of ``train``: a training with its folder, its records and its clock."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        resume: bool,
        keep: int,
        show: Callable[[Record], None],
        processes: Processes,
    ) -> None:
        self.config, self.folder, self.keep, self.show = config, folder, keep, show
        self.processes, self.is_first = processes, processes.rank == 0
        saved = _saved(folder, config, processes) if resume else _nothing_in(folder)
        processes.wait()
        self.text = _text(config, folder, processes)
        if saved and saved["coder"] != self.text.coder.about():
            raise ValueError(f"the text was prepared anew, with other tokens than {str(folder)!r}")
        longest = int(self.text.held_out.lengths.max()) - 1
        self.pieces = even_pieces(self.text.held_out, PIECES, min(PIECE, longest))
        total = config.steps or (saved["training"]["total"] if saved else self._steps())
        self.run, self.records = Training(config, self.text, total, processes), []
        self.started = self.saved_at = self.shown_at = time.monotonic()
        self.saved, self.pause = None, SAVE_EVERY
        if saved:
            self._go_on(saved)

    def _go_on(self, saved: dict[str, Any]) -> None:
        if self.processes.kind is None:
            self.run.load_state_dict(saved["training"])
        else:
            from nested.models.shards import load_shards  # slow to import

            parts, where = (self.run.model, self.run.optimizers), self.folder / saved["folder"]
            self.run.carried = load_shards(
                where, *parts, saved["shards"], self.config.batch_size, self.processes
            )
            self.run.load_progress(saved["training"])
        self.records, self.saved = saved["records"], self._moment()
        self.started -= saved["seconds"]
        self._write_log()

    def _steps(self) -> int:
        """How many steps fit into the minutes, by the speed of a few on another model."""
        trial, times = Training(self.config, self.text, TRIAL_STEPS, self.processes), []
        for _ in range(TRIAL_STEPS):
            started = time.monotonic()
            trial.take_step()
            times.append(time.monotonic() - started)
        seconds = self.processes.first(statistics.median(times))
        return max(1, round(60 * RESERVE * self.config.minutes / seconds))

    @property
    def best(self) -> float:
        return min((x["bits"] for x in self.records if x["bits"] < math.inf), default=math.inf)

    def take_step(self) -> None:
        """Make a step; measure, show and save when it is time."""
        result = self.run.take_step()
        if "back_to" in result:
            self._say(result)
        elif self.run.step % -(-self.run.total // MEASURES) == 0 or self.run.step == self.run.total:
            self._measure(result)
        elif time.monotonic() > self.shown_at + SHOW_EVERY:
            self._say(self._progress())
        if self.processes.first(time.monotonic() > self.saved_at + self.pause):
            self.save()

    def _say(self, record: Record) -> None:
        self.shown_at = time.monotonic()
        if self.is_first:
            self.show(record)

    def _progress(self) -> Record:
        seconds = time.monotonic() - self.started
        tokens = self.config.batch_size * self.config.accumulate * self.config.length
        return {
            "step": self.run.step,
            "total": self.run.total,
            "mean_loss": self.run.mean_loss,
            "seconds": seconds,
            "tokens_per_second": self.run.step * tokens / seconds,
            "memory_mib": peak_memory(self.run.device),
            "restarts": self.run.restarts,
        }

    def _measure(self, result: Record) -> None:
        bits = bits_per_byte(self.run.model, self.text.coder, self.pieces)
        is_best = bits < self.best
        record = {
            **result,
            **self._progress(),
            "bits": bits,
            "moved": self._moved(),
            "sample": self._sample(),
        }
        self.records.append(record)
        self._write_log()
        self._say(record)
        weights = self.processes.weights(self.run.model)
        if not self.is_first:
            return
        for name in [BEST] * is_best + [STEP.format(self.run.step)] * (self.keep > 0):
            save_model(self.folder / name, self.config, self.text.coder, weights, bits=bits)
        if self.keep:
            for old in sorted(self.folder.glob("step-*.pt"))[: -self.keep]:
                old.unlink()

    @torch.no_grad()
    def _moved(self) -> dict[str, float]:
        """How much each level moves in one piece of held-out text."""
        tokens, model = self.pieces[:1, :-1].to(self.run.device), self.run.model.eval()
        return movement(model, model.init(1), model(tokens)[1])

    def _sample(self) -> str:
        """What the model writes now, always from the same draws."""
        source = Generator().manual_seed(self.config.seed)
        model = self.run.model.eval()
        return "".join(generate(model, self.text.coder, "\n", SAMPLE, top_p=0.9, generator=source))

    def save(self) -> None:
        """Save all that a resumed training needs, unless that was saved already."""
        if self.saved == self._moment():
            return
        began = time.monotonic()
        more = {"records": self.records, "seconds": began - self.started}
        weights: dict[str, Tensor] = {}
        if self.processes.kind is None:
            weights, more["training"] = self.run.model.state_dict(), self.run.state_dict()
        else:
            more["folder"], more["training"] = SHARDS.format(*self._moment()), self.run.progress()
            from nested.models.shards import save_shards  # slow to import

            if self.is_first:  # what a save left here that did not end
                shutil.rmtree(self.folder / more["folder"], ignore_errors=True)
            self.processes.wait()
            parts = (self.run.model, self.run.optimizers, self.run.carried, self.processes)
            more["shards"] = save_shards(self.folder / more["folder"], *parts)
        if self.is_first:
            save_model(self.folder / LAST, self.config, self.text.coder, weights, **more)
            for old in set(self.folder.glob("shards-*")) - {self.folder / more.get("folder", "")}:
                shutil.rmtree(old)
        self.processes.wait()
        self.saved_at, self.saved = time.monotonic(), self._moment()
        self.pause = max(SAVE_EVERY, SAVE_SHARE * (self.saved_at - began))

    def _moment(self) -> tuple[int, int]:
        """Where the training stands: after a return to a good step, its step comes again."""
        return self.run.step, self.run.restarts

    def _write_log(self) -> None:
        if not self.is_first:
            return
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        write_whole(self.folder / LOG, lambda path: path.write_text(lines, encoding="utf-8"))


def _nothing_in(folder: Path) -> None:
    if (folder / LAST).exists():
        raise ValueError(f"{str(folder)!r} holds a training: take --resume, or another --out")


def _saved(folder: Path, config: TrainConfig, processes: Processes) -> dict[str, Any]:
    """The content of the checkpoint to go on from."""
    try:
        before, _, content = read_model(folder / LAST)
    except FileNotFoundError:
        raise ValueError(f"there is no training to resume in {str(folder)!r}") from None
    if "training" not in content:
        raise ValueError(f"{str(folder / LAST)!r} holds a model, but no training to resume")
    ours, theirs = plain(config), plain(before)
    different = sorted(n for n in ours.keys() - CHOSEN_LATER if ours[n] != theirs[n])
    if different:
        listed = ", ".join(f"{name} {theirs[name]} (now {ours[name]})" for name in different)
        raise ValueError(f"the training in {str(folder)!r} has other settings: {listed}")
    if ("shards" in content) != (processes.kind is not None):
        way = "with" if "shards" in content else "without"
        raise ValueError(f"the training in {str(folder)!r} was made {way} --parallel: so resume it")
    return content


def _text(config: TrainConfig, folder: Path, processes: Processes) -> Text:
    """The text of ``config.data``: prepared before, now, or by the training that goes on."""
    if len(config.data) == 1 and (Path(config.data[0]) / ABOUT).is_file():
        text = Text(config.data[0])
        if config.vocab not in (None, text.about.get("vocab")):
            raise ValueError(
                f"{config.data[0]!r} was prepared with vocab {text.about.get('vocab')}, and not"
                f" {config.vocab}: prepare it again, or leave vocab out"
            )
        return text
    ours = folder / TEXT
    if processes.rank == 0:  # others would read what it may be writing
        wanted = {"sources": list(config.data), "vocab": config.vocab}
        about = Text(ours).about if (ours / ABOUT).is_file() else {}
        if any(about.get(name) != value for name, value in wanted.items()):
            prepare(config.data, ours, vocab=config.vocab)
    processes.wait()
    return Text(ours)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end the loop after its step, and the second one end the program."""
    asked = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, ask) if is_main else None
    try:
        yield lambda: bool(asked)
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)
