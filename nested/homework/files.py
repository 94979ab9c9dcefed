"""Limit the files that a student's process can reach, from inside it, by Linux's Landlock.

Afterwards the process can read Python, this package and the student's file. It can write nothing.
Source: landlock(7) and linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3  # LANDLOCK_ACCESS_FS_...
RIGHTS_OF = {1: 13, 2: 14, 3: 15}  # number of rights in each version of Landlock; later ones: 15
CREATE, ADD, RESTRICT = 444, 445, 446  # system calls, the same on all machines
A_PATH = 1  # LANDLOCK_RULE_PATH_BENEATH
SYSTEM = ("/usr", "/lib", "/lib64", "/sys", "/proc/self", "/proc/cpuinfo", "/proc/meminfo")
SINGLE = ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom")


def see_only(file: Path, package: Path) -> None:
    """Limit this process for good: it can read Python, the system's libraries, the folder
    ``package`` and ``file``, and it can write nothing.

    Does nothing where Linux is older than Landlock (5.13). Raises ``OSError`` when the system
    refuses."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = call(CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return
    every = (1 << RIGHTS_OF.get(version, 15)) - 1
    rules = _made(call(CREATE, struct.pack("Q", every), ctypes.c_size_t(8), 0))
    installed = [path for path in sys.path if path.endswith("-packages")]  # not other checkouts
    python = {sys.prefix, sys.base_prefix, *installed}
    _allow(call, rules, READ_FILE | READ_DIR | EXECUTE, [*python, *SYSTEM, package])
    _allow(call, rules, READ_DIR, [package.parent])  # imports list this folder
    _allow(call, rules, READ_FILE, [*SINGLE, file])
    _made(call(RESTRICT, rules, 0))
    os.close(rules)


def _allow(call, rules: int, rights: int, paths: Iterable[Path | str]) -> None:
    for path in paths:
        if os.path.exists(path):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            of_files = rights if os.path.isdir(path) else rights & ~READ_DIR
            _made(call(ADD, rules, A_PATH, struct.pack("=Qi", of_files, place), 0))
            os.close(place)


def _made(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "the system refuses a Landlock rule")
    return result
