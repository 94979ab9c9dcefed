"""List the system calls that a student's process may make, by their numbers on two machines.

Every call that is not listed is refused, also calls of later kernels. Open files can be read,
written and closed, and no more: no ``ioctl``, no ``sendmsg``, no locks, leases or owners. No call
reaches another process. Source: Linux's tables, syscall_64.tbl of arch/x86 and
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import os

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_...
NEW = 424  # from here on all machines share numbers; the C library works without these calls
_ALLOWED = {
    # open files
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "lseek": (8, 62), "pread64": (17, 67),
    "readv": (19, 65), "writev": (20, 66), "dup": (32, 23), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "brk": (12, 214), "mprotect": (10, 226),
    "mremap": (25, 216), "madvise": (28, 233), "futex": (202, 98), "set_robust_list": (273, 99),
    "rseq": (334, 293),
    # files to read; Landlock decides which
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79),
    "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None),
    "faccessat": (269, 48), "readlink": (89, None), "readlinkat": (267, 78),
    "getdents64": (217, 61), "getcwd": (79, 17),
    # time, and waiting
    "time": (201, None), "gettimeofday": (96, 169), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "times": (100, 153), "getrusage": (98, 165), "sched_yield": (24, 124),
    "restart_syscall": (219, 128),
    # who and where it is
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160),
    "sysinfo": (99, 179), "getcpu": (309, 168), "sched_getaffinity": (204, 123),
    "getrlimit": (97, 163), "getrandom": (318, 278),
    # its own signals, and its end
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
ALLOWED = {
    machine: [numbers[place] for numbers in _ALLOWED.values() if numbers[place] is not None]
    for place, machine in enumerate(AUDIT)
}
SPECIAL = {  # allowed for some arguments only
    "x86_64": {"fcntl": 72, "open": 2, "openat": 257, "kill": 62, "tgkill": 234},
    "aarch64": {"fcntl": 25, "openat": 56, "kill": 129, "tgkill": 131},
}
BY_FCNTL = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
BY_OPEN = (  # flags; none of them writes, creates a file or requests signals
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
)
