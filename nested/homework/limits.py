"""What the process that runs a student's code may use; set from inside, before that code is read.

Memory, time and output are limited everywhere that Python's ``resource`` module works. On Linux a
seccomp filter also forbids what ``nested.homework.system_calls`` lists: new processes and threads,
programs, sockets, memory that nobody counts, signals to others. Source: setrlimit(2), seccomp(2);
the filter is classic BPF, as linux/filter.h lays it out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from pathlib import Path

from nested.homework.files import see_only
from nested.homework.system_calls import AUDIT, NEVER, SPECIAL

OUTPUT_BYTES = 2**20  # of what is printed, and of any other file
OPEN_FILES = 256
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_...
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, bytes
NOT_BY_FCNTL = (8, 10, 15, 1031)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals; F_SETPIPE_SZ: memory
END_WITH_PARENT, NO_NEW_PRIVILEGES, SECCOMP, FILTER = 1, 38, 22, 2  # of prctl


def limit_memory(more: int) -> None:
    """Let this process take ``more`` bytes of addresses beyond those it has now, on Linux;
    elsewhere no limit is set. Raises ``OSError`` when the system refuses."""
    if sys.platform == "linux":
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + more, most))


def limit_this_process(seconds: int, memory: int, file: Path, package: Path) -> None:
    """Allow this process ``seconds`` of processor time, ``memory`` bytes more of addresses and, to
    read, ``file`` and the folder ``package`` from now on. Raises ``OSError`` where the system
    refuses a limit that it should know."""
    limit_memory(memory)
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    for what, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, space),  # for good
        (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        if sys.platform == "darwin" and what == resource.RLIMIT_AS:
            continue  # macOS does not keep to it, and may refuse it
        resource.setrlimit(what, (value, value))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(END_WITH_PARENT, 9, 0, 0, 0)  # however the grader ends
        prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)  # asked for by what follows
        see_only(file, package)
        _drop_capabilities()
    if sys.platform == "linux" and platform.machine() in AUDIT:
        _filter_system_calls(platform.machine())
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _drop_capabilities() -> None:
    """Of root, leave the name only: see capset(2)."""
    version_3, this_process = 0x20080522, 0
    head = struct.pack("Ii", version_3, this_process)
    if ctypes.CDLL(None, use_errno=True).capset(head, bytes(24)):
        raise OSError(ctypes.get_errno(), "the system does not take capabilities away")


def _filter_system_calls(machine: str) -> None:
    """Install the filter: each rule is "if the number is this, answer that"."""
    calls = SPECIAL[machine]
    program = [(0x20, 0, 0, ARCHITECTURE), (0x15, 1, 0, AUDIT[machine]), (0x06, 0, 0, KILL)]
    program += [(0x20, 0, 0, NUMBER), (0x35, 0, 1, 0x40000000), (0x06, 0, 0, ERROR | errno.EPERM)]
    program += _answer(calls["clone3"], ERROR | errno.ENOSYS)  # then the C library takes clone
    for number in NEVER[machine]:
        program += _answer(number, ERROR | errno.EPERM)
    for name in ("kill", "tgkill"):  # allowed if the first argument is this process
        program += _by_argument(calls[name], (0x15, 1, 0, os.getpid()))
    program += _by_argument(calls["prctl"], (0x15, 0, 1, END_WITH_PARENT))  # all but that
    for command in NOT_BY_FCNTL:  # if the call is fcntl and its second argument the command
        load = (0x20, 0, 0, ARGUMENTS + 8)
        program += [(0x20, 0, 0, NUMBER), (0x15, 0, 3, calls["fcntl"]), load]
        program += _answer(command, ERROR | errno.EPERM)
    program += [(0x06, 0, 0, ALLOW)]
    code = b"".join(
        kind.to_bytes(2, sys.byteorder) + bytes([yes, no]) + value.to_bytes(4, sys.byteorder)
        for kind, yes, no, value in program
    )
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    packed = Program(len(program), ctypes.addressof(buffer))
    if prctl(SECCOMP, FILTER, ctypes.byref(packed)):
        raise OSError(ctypes.get_errno(), "the system does not take a seccomp filter")


def _answer(number: int, verdict: int) -> list[tuple[int, int, int, int]]:
    return [(0x15, 0, 1, number), (0x06, 0, 0, verdict)]


def _by_argument(number: int, test: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Refuse the call ``number`` unless ``test`` of its first argument jumps over the refusal."""
    load = (0x20, 0, 0, ARGUMENTS)
    allow, refuse = (0x06, 0, 0, ALLOW), (0x06, 0, 0, ERROR | errno.EPERM)
    return [(0x15, 0, 4, number), load, test, refuse, allow]
