"""Limit the process that runs a student's code. It sets the limits before it reads the code.

Memory, time and output are limited wherever Python's ``resource`` module works. On Linux a seccomp
filter also refuses every system call that ``nested.homework.system_calls`` does not list. So there
are no new processes, threads or programs, no sockets, and no signals to other processes. All memory
counts. Source: setrlimit(2), seccomp(2); the filter is classic BPF, as in linux/filter.h.
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
from nested.homework.system_calls import ALLOWED, AUDIT, BY_FCNTL, BY_OPEN, NEW, SPECIAL

OUTPUT_BYTES = 2**20  # in the printed output, and in any other file
OPEN_FILES = 256
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_...
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, bytes
Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
END_WITH_PARENT, NO_NEW_PRIVILEGES, SECCOMP, FILTER = 1, 38, 22, 2  # of prctl


def limit_memory(more: int) -> None:
    """Allow this process ``more`` bytes of addresses than it has now.

    Only Linux has this limit. Raises ``OSError`` when the system refuses."""
    if sys.platform == "linux":
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + more, most))


def limit_this_process(seconds: int, memory: int, file: Path, package: Path) -> None:
    """Limit this process to ``seconds`` of processor time and ``memory`` more bytes of addresses.

    From now on it can read ``file``, the folder ``package`` and Python. Raises ``OSError`` where
    the system refuses a limit that it should know."""
    limit_memory(memory)
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, space),  # for good
        (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        if sys.platform == "darwin" and limit == resource.RLIMIT_AS:
            continue  # macOS ignores this limit, and may refuse it
        resource.setrlimit(limit, (value, value))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(END_WITH_PARENT, 9, 0, 0, 0)  # however the grader ends
        prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)  # the next calls require it
        see_only(file, package)
        _drop_capabilities()
    if sys.platform == "linux" and platform.machine() in AUDIT:
        _filter_system_calls(platform.machine())
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _drop_capabilities() -> None:
    """Take all of root's powers from this process: see capset(2)."""
    version_3, this_process = 0x20080522, 0
    head = struct.pack("Ii", version_3, this_process)
    if ctypes.CDLL(None, use_errno=True).capset(head, bytes(24)):
        raise OSError(ctypes.get_errno(), "the system refuses to drop capabilities")


def _filter_system_calls(machine: str) -> None:
    """Install the filter. It decides by the number of a call and, for a few, by one argument."""
    calls = SPECIAL[machine]
    program = [(LOAD, 0, 0, ARCHITECTURE), (IF_EQUAL, 1, 0, AUDIT[machine]), (ANSWER, 0, 0, KILL)]
    program += [(LOAD, 0, 0, NUMBER), (IF_AT_LEAST, 0, 1, NEW)]
    program += [(ANSWER, 0, 0, ERROR | errno.ENOSYS)]  # then the C library uses an older call
    for number in ALLOWED[machine]:
        program += [(IF_EQUAL, 0, 1, number), (ANSWER, 0, 0, ALLOW)]
    program += _if_argument(calls["fcntl"], 1, [(IF_EQUAL, command) for command in BY_FCNTL])
    for name, place in (("open", 1), ("openat", 2)):
        if name in calls:
            others = ~BY_OPEN & 0xFFFFFFFF
            program += _unless_argument(calls[name], place, (IF_ANY_BIT, others))
    for name in ("kill", "tgkill"):  # to itself only
        program += _if_argument(calls[name], 0, [(IF_EQUAL, os.getpid())])
    _install([*program, (ANSWER, 0, 0, ERROR | errno.EPERM)])


def _if_argument(number: int, place: int, tests: list[tuple[int, int]]) -> list[Instruction]:
    """Allow the call ``number`` if the argument at ``place`` passes one of ``tests``."""
    checks = [(code, len(tests) - i, 0, value) for i, (code, value) in enumerate(tests)]
    return _special(number, place, checks)


def _unless_argument(number: int, place: int, test: tuple[int, int]) -> list[Instruction]:
    """Allow the call ``number`` unless the argument at ``place`` passes ``test``."""
    return _special(number, place, [(test[0], 0, 1, test[1])])


def _special(number: int, place: int, checks: list[Instruction]) -> list[Instruction]:
    load = (LOAD, 0, 0, ARGUMENTS + 8 * place)
    refuse, allow = (ANSWER, 0, 0, ERROR | errno.EPERM), (ANSWER, 0, 0, ALLOW)
    return [(IF_EQUAL, 0, len(checks) + 3, number), load, *checks, refuse, allow]


def _install(program: list[Instruction]) -> None:
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
        raise OSError(ctypes.get_errno(), "the system refuses a seccomp filter")
