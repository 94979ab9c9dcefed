"""Start the process that runs a student's code, ask it questions, and end it.

Whatever that process does, the grader reads only tensors, numbers and strings from it. It never
waits longer than its time limits. Source: the limits are those of ``nested.homework.limits``.
"""

from __future__ import annotations

import builtins
import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nested
from nested.homework.forks import Fork, start_worker
from nested.homework.wire import receive, send

SECONDS_A_QUESTION = 15.0  # to answer one
SECONDS_TO_START = 30.0  # to import torch and read the student's file
FIRST = "correct this first: no check could run"  # a hint
MOST_PRINTED = 2000  # last bytes of the output that are read
MEMORY = 4 * 2**30  # bytes of addresses, without those of torch


class StudentError(Exception):
    """The student's code raised, ended or hung. The message says what happened and where, and
    ``hint`` what to do."""

    def __init__(self, message: str, hint: str = "run the function by itself to see why") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass
class Sandbox:
    """A process that runs the code in ``file`` for ``slot``, for ``seconds`` in all.

    The process starts at the first question, and starts again after it dies. So a check that kills
    it costs the others one start. Use it as a context manager, which ends the process at the end.
    """

    file: Path
    slot: str
    seconds: float
    process: subprocess.Popen | Fork | None = None
    wire: socket.socket | None = None
    refusal: str = ""  # why the file cannot be read, once that is known

    def __post_init__(self) -> None:
        self.ends_at = time.monotonic() + self.seconds

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()

    def __deepcopy__(self, memo: dict) -> Sandbox:
        return self  # copies of a remote rule ask the same process

    def ask(self, function: str, *args: Any, **more: Any) -> dict[str, Any]:
        """Return the process's answer to a question about nested tensors (...).

        ``more`` is ``static``, ``transforms`` or ``extra``: see ``nested.homework.worker``.
        Built-in exceptions of the student's code pass through. Others come as ``StudentError``."""
        self.start()
        question = {"function": function, "args": args, "static": (), "transforms": (), "extra": ()}
        reply = self._exchange({**question, **more}, SECONDS_A_QUESTION)
        if "error" in reply:
            raise _as_exception(reply)
        return reply

    def start(self) -> None:
        """Start the process, unless it runs, and let it read the file. Raises ``StudentError``
        when the file cannot be read."""
        if self.process is not None:
            return
        if self.refusal:
            raise StudentError(self.refusal, FIRST)
        ours, theirs = socket.socketpair()
        self.wire, self.output = ours, tempfile.TemporaryFile()
        self.folder = tempfile.TemporaryDirectory()  # an empty folder to run in
        limits = [str(int(self.seconds) + 1), str(MEMORY)]
        self.process = start_worker(
            [self.slot, str(self.file.resolve()), *limits],
            theirs,
            self.output,
            self.folder.name,
            _environment(),
        )
        theirs.close()
        try:
            reply = self._exchange(None, SECONDS_TO_START)
            if "error" in reply:
                raise StudentError(_sentence(reply))
        except StudentError as error:
            self.stop()
            self.refusal = f"the file cannot be read: {error}"  # the next time would be the same
            raise StudentError(self.refusal, FIRST) from error

    def _exchange(self, question: Any, seconds: float) -> dict[str, Any]:
        deadline = min(time.monotonic() + seconds, self.ends_at)
        if deadline - time.monotonic() < 0.1:
            raise StudentError(f"no time is left of the {self.seconds:.0f} seconds for this slot")
        try:
            if question is not None:
                self.wire.settimeout(deadline - time.monotonic())
                send(self.wire, question)
            return dict(receive(self.wire, deadline))
        except TimeoutError as error:
            self.stop()
            message = f"no answer within {seconds:.0f} seconds: an endless loop?"
            message = str(error) if "in pieces" in str(error) else message
            raise StudentError(message, "a right answer needs less than a tenth of that") from error
        except (EOFError, OSError) as error:
            raise StudentError(self._last_words()) from error
        except (TypeError, ValueError) as error:
            self.stop()
            raise StudentError(str(error)) from error

    def _last_words(self) -> str:
        try:
            code = self.process.wait(1.0)
            end = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            end = "closed its connection"
        self._kill()  # it could still move the place in its output that is read next
        lines = self._printed()
        self.stop()
        message = f", its last line: {lines[-1][:200]}" if lines else ""
        return f"the process {end} before it answered{message}"

    def _printed(self) -> list[str]:
        """Read the last lines of its output. The first of them may be incomplete."""
        size = os.fstat(self.output.fileno()).st_size
        data = os.pread(self.output.fileno(), MOST_PRINTED, max(size - MOST_PRINTED, 0))
        return data.decode(errors="replace").strip().splitlines()

    def peak_memory(self) -> int:
        """Return the peak memory of the process, in bytes, since the last call.

        Raises ``StudentError`` when the process does not run, and on systems other than Linux."""
        try:
            about = Path(f"/proc/{self.process.pid}")
            status = (about / "status").read_text()
            (about / "clear_refs").write_text(
                "5"
            )  # resets the peak to the present use; see proc(5)
        except (AttributeError, OSError) as error:
            raise StudentError("memory can be measured on Linux only") from error
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def stop(self) -> None:
        """End the process and everything that it started. The next question starts another."""
        if self.process is not None:
            self._kill()
            self.wire.close()
            self.output.close()
            self.folder.cleanup()
        self.process = self.wire = None

    def _kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def _environment() -> dict[str, str]:
    """Make the environment of the process. It keeps only the paths of programs and this package."""
    paths = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    package = str(Path(nested.__file__).parents[1])
    one_thread = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    returned_at_once = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}  # so that memory can be measured
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    return {**paths, "PYTHONPATH": package, **one_thread, **returned_at_once, **quiet}


def _sentence(reply: dict[str, Any]) -> str:
    where = f", line {reply['line']}: {reply['text']}" if reply.get("line") else ""
    return f"{reply['error']}: {reply['message']}{where}"


def _as_exception(reply: dict[str, Any]) -> Exception:
    kind = getattr(builtins, str(reply["error"]), None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not OSError:
        try:
            return kind(_sentence(reply).split(": ", 1)[1])
        except TypeError:  # an exception with other arguments
            pass
    return StudentError(_sentence(reply))
