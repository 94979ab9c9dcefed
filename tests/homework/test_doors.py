"""No call of a student's process reaches the grader, save reads and writes; no message holds it."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

import nested.homework.sandbox as sandbox
import nested.homework.wire as wire
from nested.homework.grade import grade
from nested.homework.system_calls import ALLOWED, SPECIAL
from nested.homework.wire import HEAD, pack, receive
from tests.homework.mutants import right_answer
from tests.homework.test_hostile import inside

RIGHT = right_answer("hw0").read_text()
MACHINE = os.uname().machine
ONE = "nothing passed in is changed"  # a check
needs_filter = pytest.mark.skipif(
    sys.platform != "linux" or MACHINE not in SPECIAL, reason="needs Linux's filter of system calls"
)


def graded(folder, text):
    """The report on one check: each start of a process takes a second."""
    (folder / "hw0_one_detached_line.py").write_text(text)
    (slot,) = grade(folder, only=["hw0"], check=ONE).slots
    assert slot.status == "graded" and len(slot.checks) == 1
    return slot


# Two ways to make the kernel signal the grader whenever the socket becomes readable.
ASYNC = {
    "ioctl FIOSETOWN and FIOASYNC": """
import fcntl, os, struct
for number in range(64):
    try:
        fcntl.ioctl(number, 0x8901, struct.pack("i", os.getppid()))
        fcntl.ioctl(number, 0x5452, struct.pack("i", 1))
    except OSError:
        pass
""",
    "ioctl SIOCSPGRP and fcntl O_ASYNC": """
import fcntl, os, struct
for number in range(64):
    try:
        fcntl.ioctl(number, 0x8902, struct.pack("i", os.getppid()))
        fcntl.fcntl(number, fcntl.F_SETFL, os.O_ASYNC)
    except OSError:
        pass
""",
}


@needs_filter
@pytest.mark.parametrize("way", ASYNC)
def test_the_kernel_does_not_signal_the_grader_for_a_student(way, tmp_path):
    (tmp_path / "hw0_one_detached_line.py").write_text(ASYNC[way] + RIGHT)
    command = [sys.executable, "-m", "nested.homework", "grade", str(tmp_path), "--only", "hw0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "5/5" in done.stdout, (done.returncode, done.stdout[-500:])


EVERY_CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number in set(range(480)) - {335, 336} - set():  # traps of the kernel's own: the caller dies
    ctypes.set_errno(0)
    done = libc.syscall(number, *[ctypes.c_long(-1)] * 6)
    if done != -1 or ctypes.get_errno() not in (1, 38):  # EPERM, ENOSYS
        raise SystemExit(f"call {number} is let through: {done}, {ctypes.get_errno()}")
"""


@needs_filter
def test_every_system_call_that_is_not_listed_is_refused(tmp_path):
    tried = set(range(480)) - set(ALLOWED[MACHINE])
    assert len(tried) > 400 and SPECIAL[MACHINE]["kill"] in tried
    text = EVERY_CALL.replace("- set()", "- " + repr(set(ALLOWED[MACHINE])))
    slot = graded(tmp_path, text + RIGHT)
    assert slot.is_full, slot.checks[0].measured


ARGUMENTS = """
import ctypes, errno, fcntl, os
libc = ctypes.CDLL(None, use_errno=True)

def refused(*arguments):
    ctypes.set_errno(0)
    done = libc.syscall(*(ctypes.c_long(x) for x in arguments))
    return done == -1 and ctypes.get_errno() == errno.EPERM

for command in {*range(0, 64), *range(1024, 1064)} - {0, 1, 2, 3, 1030}:  # of fcntl
    assert refused(FCNTL, 0, command, 0), f"fcntl {command}"
for command in (0, 1, 2, 3, 1030):
    assert not refused(FCNTL, 0, command, 0), f"fcntl {command} is needed"
path = ctypes.create_string_buffer(b"/dev/null")
for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE, os.O_PATH, os.O_ASYNC):
    assert refused(OPENAT, -100, ctypes.addressof(path), flags, 0), f"open with {flags}"
for process in (0, -1, 1, os.getppid(), -os.getppid()):
    assert refused(KILL, process, 0) and refused(TGKILL, process, process, 0), process
assert not refused(KILL, os.getpid(), 0) and not refused(TGKILL, os.getpid(), os.getpid(), 0)
"""


@needs_filter
def test_calls_that_are_listed_in_part_take_no_other_arguments(tmp_path):
    text = ARGUMENTS
    for name in ("fcntl", "openat", "tgkill", "kill"):
        text = text.replace(name.upper(), str(SPECIAL[MACHINE][name]))
    slot = graded(tmp_path, text + RIGHT)
    assert slot.is_full, slot.checks[0].measured


# --- what comes over the wire --------------------------------------------------------------------


def trickle(length, pause):
    """A socket on which the first bytes of a long message come at once, the rest one by one."""
    ours, theirs = socket.socketpair()

    def write():
        try:
            theirs.sendall(HEAD.pack(length, 0))
            for _ in range(length):
                theirs.sendall(b" ")
                if pause:
                    time.sleep(pause)
        except OSError:  # nobody listens any more
            pass

    threading.Thread(target=write, daemon=True).start()
    return ours


@pytest.mark.parametrize("pause", [0.0, 0.0002, 0.02])
def test_a_deadline_is_one_for_the_message_not_for_each_byte(pause):
    began = time.monotonic()
    with trickle(2**20, pause) as ours, pytest.raises(TimeoutError):
        receive(ours, time.monotonic() + 0.3)
    assert time.monotonic() - began < 0.6


def test_a_message_that_has_begun_must_end_soon(monkeypatch):
    monkeypatch.setattr(wire, "SECONDS_A_MESSAGE", 0.3)
    began = time.monotonic()
    with trickle(10**5, 0.002) as ours, pytest.raises(TimeoutError, match="in pieces"):
        receive(ours, time.monotonic() + 60)
    assert time.monotonic() - began < 1


def test_a_head_that_trickles_in_is_part_of_the_message(monkeypatch):
    monkeypatch.setattr(wire, "SECONDS_A_MESSAGE", 0.2)
    ours, theirs = socket.socketpair()
    theirs.sendall(b"\0")
    began = time.monotonic()
    with ours, theirs, pytest.raises(TimeoutError):
        receive(ours, time.monotonic() + 60)
    assert time.monotonic() - began < 1


def test_an_answer_in_pieces_ends_the_process_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "SECONDS_A_MESSAGE", 0.5)
    lines = [
        "import os, time",
        "for number in range(3, 64):",
        "    try:",
        "        os.write(number, (10**5).to_bytes(8, 'little') + bytes(8))",
        "        while True:",
        "            os.write(number, b' ')",
        "            time.sleep(0.001)",
        "    except OSError:",
        "        pass",
    ]
    began = time.monotonic()
    slot = graded(tmp_path, inside("", lines))
    assert slot.points == 0 and time.monotonic() - began < 30
    assert all("in pieces" in check.measured for check in slot.checks), slot.checks[0]


@pytest.mark.parametrize("shape", ["2**40, 0", "2**20, 2**20, 0", "0, 2**40"])
def test_a_tensor_of_no_numbers_has_no_endless_rows(shape, tmp_path):
    """The grader walks over the rows of a batch: such a tensor would have a million million."""
    text = right_answer("hw1").read_text()
    old = "return x, self.amplitude"
    assert old in text
    wide = text.replace(old, f"return torch.empty({shape}), self.amplitude")
    (tmp_path / "hw1_new_family.py").write_text(wide)
    (slot,) = grade(tmp_path, only=["hw1"], check="query data are never train data").slots
    assert slot.points == 0 and "too large" in slot.checks[0].measured, slot.checks[0]


def test_messages_of_many_parts_are_refused_before_they_are_built():
    data = pack([0] * 10)
    assert len(data) < 300
    with pytest.raises(ValueError, match="too many parts"):
        message = pack([[]] * (wire.MOST_PARTS + 1))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            threading.Thread(target=theirs.sendall, args=(message,), daemon=True).start()
            receive(ours, time.monotonic() + 5)


# --- the one file that both hold -----------------------------------------------------------------


def test_what_it_printed_is_read_when_it_has_ended_and_no_more_than_a_line(tmp_path):
    """Its output is one open file with the grader's: it could move the place that is read."""
    lines = [
        "import os",
        "os.write(1, b'x' * 10**6)",
        "os.closerange(3, 64)",
        "while True: os.lseek(1, 0, 0)",
    ]
    began = time.monotonic()
    slot = graded(tmp_path, inside("", lines))
    assert slot.points == 0 and time.monotonic() - began < 60
    assert all("closed its connection" in check.measured for check in slot.checks)


def test_only_the_last_of_what_it_printed_is_read(tmp_path):
    box = sandbox.Sandbox(tmp_path / "none.py", "hw0", 5.0)
    box.output = open(tmp_path / "output", "wb+")
    box.output.write(b"x" * 10**6 + b"\nthe last line\n")
    box.output.flush()
    first, last = box._printed()
    assert len(first) < 10**4 and last == "the last line"
