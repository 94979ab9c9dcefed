"""Start the processes that run students' code. On Linux they are forks of one small server.

Importing torch takes longer than most checks, so the server imports it once. For each process it
forks itself, and the fork limits itself (``nested.homework.limits``) before it reads the student's
file. The server never runs a student's code. No student's process can write to the server's memory
or reach its socket. Each fork gets a copy of memory that held Python, torch and this package alone.
A fork of the grader would hold expected values and other students' answers, so the grader itself is
never forked. On other systems each process starts a new Python: macOS's libraries break in a fork.
Source: fork(2), unix(7).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from typing import IO

LONGEST_REQUEST = 2**16  # bytes
SECONDS_TO_START_SERVER = 60.0
END_WITH_PARENT = 1  # of prctl


def start_worker(
    arguments: list[str],
    wire: socket.socket,
    output: IO[bytes],
    folder: str,
    environment: dict[str, str],
) -> subprocess.Popen | Fork:
    """Start ``nested.homework.worker`` with ``arguments`` after the number of its socket ``wire``.

    It prints to ``output`` and runs in ``folder``. Returns the process, with ``pid`` and ``wait``.
    Raises ``OSError`` when the system starts no more processes."""
    if sys.platform == "linux":
        return _server(environment).fork(arguments, wire, output, folder)
    return subprocess.Popen(
        [sys.executable, "-m", "nested.homework.worker", str(wire.fileno()), *arguments],
        pass_fds=[wire.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**environment, "TORCHINDUCTOR_CACHE_DIR": folder},
        start_new_session=True,
    )


# --- the grader's end ----------------------------------------------------------------------------


class Fork:
    """A process that the server has forked, with the needed parts of ``subprocess.Popen``."""

    def __init__(self, server: Server, pid: int) -> None:
        self.server, self.pid, self.returncode = server, pid, None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code, or minus the signal.

        ``pid`` stays the number of this process until then. Raises ``subprocess.TimeoutExpired``
        after ``timeout`` seconds."""
        if self.returncode is None:
            reply = self.server.request({"wait": self.pid, "seconds": timeout})
            self.returncode = reply["code"]
        if self.returncode is None:
            raise subprocess.TimeoutExpired("the student's process", timeout)
        return self.returncode


class Server:
    """A Python that has imported torch and forks on request. It ends when the grader does."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.owner = os.getpid()
        self.folder = tempfile.TemporaryDirectory()
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nested.homework.forks", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=self.folder.name,
            env={**environment, "TORCHINDUCTOR_CACHE_DIR": self.folder.name},
            start_new_session=True,  # Ctrl-C is the grader's
        )
        theirs.close()
        self.socket.settimeout(SECONDS_TO_START_SERVER)
        self._reply()
        self.socket.settimeout(None)

    def fork(
        self, arguments: list[str], wire: socket.socket, output: IO[bytes], folder: str
    ) -> Fork:
        """Start a process; see ``start_worker``. Raises ``OSError``."""
        request = {"arguments": arguments, "folder": folder}
        return Fork(self, self.request(request, [wire.fileno(), output.fileno()])["pid"])

    def request(self, request: dict, descriptors: list[int] = ()) -> dict:
        """Return the server's reply. Raises ``OSError`` when it is gone or cannot fork."""
        socket.send_fds(self.socket, [json.dumps(request).encode()], descriptors)
        return self._reply()

    def _reply(self) -> dict:
        message = self.socket.recv(LONGEST_REQUEST)
        if not message:
            raise OSError("the server that starts students' processes has ended")
        reply = json.loads(message)
        if "error" in reply:
            raise OSError(reply["error"])
        return reply

    def is_usable(self) -> bool:
        """Tell whether it runs, and whether this process started it (not a parent that forked)."""
        return self.owner == os.getpid() and self.process.poll() is None


_SERVERS: list[Server] = []  # none, or the one of this process


def _server(environment: dict[str, str]) -> Server:
    if not (_SERVERS and _SERVERS[0].is_usable()):
        _SERVERS[:] = [Server(environment)]
    return _SERVERS[0]


# --- the server's end ----------------------------------------------------------------------------


def serve(control: socket.socket) -> None:
    """Answer requests to fork or to wait, one after another, until the grader is gone."""
    import torch

    import nested.homework.worker  # noqa: F401  with all that it imports

    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # the first optimizer imports the rest of torch
    gc.collect()
    gc.freeze()  # so that garbage collection in a fork leaves these pages shared
    control.send(b"{}")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, LONGEST_REQUEST, 2)
        if not message:
            return
        request = json.loads(message)
        if "wait" in request:
            reply = {"code": _wait(request["wait"], request["seconds"])}
        else:
            try:
                reply = {"pid": _fork(control, *descriptors, **request)}
            except OSError as error:
                reply = {"error": str(error)}
            for descriptor in descriptors:
                os.close(descriptor)
        control.send(json.dumps(reply).encode())


def _wait(pid: int, seconds: float | None) -> int | None:
    """Return the exit code as ``subprocess.Popen`` does, or None while the process runs."""
    ends_at = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, 0 if ends_at is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends_at:
            return None
        time.sleep(0.01)


def _fork(control: socket.socket, wire: int, output: int, arguments: list[str], folder: str) -> int:
    """Return the number of a new process that runs ``nested.homework.worker``."""
    server, pid = os.getpid(), os.fork()
    if pid:
        return pid
    code = 1
    try:
        control.close()
        os.setsid()
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:  # the server ended before the line above
            os._exit(1)
        os.chdir(folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(wire, 3)
        os.closerange(4, 2**16)
        from nested.homework.worker import main

        main(["3", *arguments])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
