"""Whatever a submission does, the report stays right and complete, and the machine usable."""

import ctypes
import os
import subprocess
import sys
import time

import pytest

import nested.homework.sandbox as sandbox
from nested.homework.grade import grade
from tests.homework.mutants import right_answer

RIGHT = right_answer("hw0").read_text()
WRONG = RIGHT.replace("w - lr * buffer", "w - lr.item() * buffer")  # 2 of its 5 points are lost
HAS_LANDLOCK = sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, 0, 1) > 0
HEAD = "    losses = []\n"  # a line in the function that is asked for


def graded(folder, text):
    (folder / "hw0_one_detached_line.py").write_text(text)
    (slot,) = grade(folder, only=["hw0"]).slots
    assert slot.status == "graded" and len(slot.checks) == 5
    return slot


def inside(text, code, source=RIGHT):
    """The right answer with ``code`` at the start of its work, after ``text`` at the top."""
    assert HEAD in source
    return text + source.replace(HEAD, HEAD + "".join(f"    {line}\n" for line in code))


ENDINGS = {
    "a syntax error": ("def f(:\n", "SyntaxError: "),
    "a missing import": (
        "import not_there\n",
        "No module named 'not_there', line 1: import not_there",
    ),
    "os._exit(0)": ("import os; os._exit(0)\n", "ended with exit code 0"),
    "sys.exit": ("import sys; sys.exit(0)\n", "SystemExit: 0"),
    "an atexit trick": (
        "import atexit, os; atexit.register(os._exit, 0); 1 / 0\n",
        "division by zero",
    ),
    "no function at all": ("x = 1\n", "has no attribute 'unroll_by_hand'"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_cannot_be_read_says_why_at_every_check(ending, tmp_path):
    text, said = ENDINGS[ending]
    slot = graded(tmp_path, text)
    assert slot.points == 0 and all(said in check.measured for check in slot.checks), slot.checks[0]


def test_an_endless_loop_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS_A_QUESTION", 0.5)
    began = time.monotonic()
    slot = graded(tmp_path, inside("", ["while momentum > 0.999 or losses == []: pass"]))
    assert slot.points == 0 and time.monotonic() - began < 45
    assert any("an endless loop?" in check.measured for check in slot.checks)


def test_ten_gibibytes_are_refused(tmp_path):
    slot = graded(tmp_path, inside("", ["big = torch.ones(10 * 2**30, dtype=torch.uint8)"]))
    assert slot.points == 0
    assert all("memory" in check.measured and "line" in check.measured for check in slot.checks)


def test_a_fork_bomb_starts_nothing(tmp_path):
    bomb = "import os\nfor _ in range(50):\n    os.fork()\n"
    slot = graded(tmp_path, bomb + RIGHT)
    assert slot.points == 0 and all("not permitted" in check.measured for check in slot.checks)


def test_it_cannot_signal_the_grader_or_start_programs(tmp_path):
    for line in (
        "os.kill(os.getppid(), 9)",
        "os.system('true') and 1 / 0",
        "os.execv('/bin/true', ['true'])",
    ):
        slot = graded(tmp_path, f"import os\n{line}\n" + RIGHT)
        assert slot.points == 0, line


def test_a_flood_of_output_is_not_kept(tmp_path):
    slot = graded(tmp_path, inside("", ["print('x' * 10**8, flush=True)"]))
    assert slot.points == 0 and all("too large" in c.measured for c in slot.checks), slot.checks[0]


def test_a_little_output_does_no_harm(tmp_path):
    assert graded(tmp_path, inside("print('reading')\n", ["print('10/10')"])).points == 5


def test_an_optimizer_of_pytorch_can_be_made(tmp_path):
    """Which imports half of PyTorch, from files, when all limits are set."""
    text = inside("", ["torch.optim.SGD([torch.ones(2)], 0.1).step()"])
    assert graded(tmp_path, text).points == 5


FORGERY = "ok   5/5\\n  hw0  One detached line: 5/5\\x1b[2J"


def test_a_forged_line_stays_inside_its_own(tmp_path):
    slot = graded(tmp_path, inside("", [f"raise ValueError('{FORGERY}')"]))
    assert slot.points == 0
    for check in slot.checks:
        assert check.measured.isprintable() and "5/5" in check.measured


PATCHES = """
import torch
import nested.conformance.check, nested.homework.slots.unrolls as unrolls
torch.autograd.gradcheck = torch.equal = torch.allclose = lambda *args, **kwargs: True
nested.conformance.check.Verdict.passed = True
nested.conformance.check.run_check = lambda *args: None
for name in list(vars(unrolls)):
    if name.startswith(("_judge", "_probe")):
        setattr(unrolls, name, lambda *args: nested.conformance.check.Verdict(True, "10/10"))
"""


def test_a_patched_grader_earns_nothing(tmp_path):
    assert graded(tmp_path, WRONG).points == 3
    slot = graded(tmp_path, PATCHES + WRONG)
    assert slot.points <= 3
    (lost,) = [check for check in slot.checks if "learning rate" in check.name]
    assert lost.points == 0 and "by finite difference" in lost.measured


def test_garbage_on_the_wire_is_not_believed(tmp_path):
    write = """
import os
for number in range(3, 64):
    try:
        os.write(number, b'\\xff' * 4096)
    except OSError:
        pass
"""
    slot = graded(tmp_path, write + RIGHT)
    assert slot.points == 0 and all("too large" in check.measured for check in slot.checks)


def test_the_graders_environment_is_kept_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hidden")
    slot = graded(tmp_path, "import os\nassert 'A_SECRET' not in os.environ\n" + RIGHT)
    assert slot.points == 5


def test_a_check_that_kills_the_process_costs_only_itself(tmp_path):
    slot = graded(tmp_path, inside("import os\n", ["if momentum.requires_grad: os._exit(3)"]))
    names = {check.name: check.points for check in slot.checks}
    assert names["it trains as torch.optim.SGD does"] == 0.5
    assert names["the hypergradient of the momentum"] == 0
    assert "exit code 3" in [c.measured for c in slot.checks if not c.points][0]


def test_nothing_is_left_running(tmp_path):
    graded(tmp_path, RIGHT)
    assert not workers_of(os.getpid())


def test_a_connection_that_is_closed_is_the_end_of_it(tmp_path):
    slot = graded(tmp_path, "import os\nos.closerange(3, 64)\n" + RIGHT)
    assert slot.points == 0 and "the file cannot be read" in slot.checks[0].measured


SIGNALS = """
import ctypes, fcntl, os
grader, libc = os.getppid(), ctypes.CDLL(None, use_errno=True)
info = ctypes.create_string_buffer(128)
assert libc.syscall(129, grader, 9, info) == -1 and ctypes.get_errno() == 1  # rt_sigqueueinfo
for command, argument in ((fcntl.F_SETOWN, grader), (10, 9)):
    try:
        fcntl.fcntl(0, command, argument)
    except PermissionError:
        continue
    raise SystemExit("fcntl was allowed")
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of that machine")
def test_other_ways_to_signal_the_grader_are_closed(tmp_path):
    slot = graded(tmp_path, SIGNALS + RIGHT)
    assert slot.points == 5, slot.checks[0].measured


CLOSED = f"""
import ctypes, os, threading
from pathlib import Path

def refused(what):
    try:
        what()
    except (OSError, RuntimeError):
        return
    raise SystemExit(f"allowed: {{what.__code__.co_names}} {{what.__code__.co_consts}}")

prctl = ctypes.CDLL(None).prctl
refused(lambda: Path("a.txt").write_text("x"))
refused(lambda: Path("/dev/shm/a.txt").write_text("x"))
refused(lambda: Path("here").mkdir())
refused(lambda: os.unlink(__file__))
refused(lambda: os.rename(__file__, __file__ + "x"))
refused(lambda: os.truncate(__file__, 0))
refused(lambda: Path({str(right_answer("hw1"))!r}).read_text())
refused(lambda: Path(f"/proc/{{os.getppid()}}/environ").read_bytes())
refused(lambda: open(f"/proc/{{os.getppid()}}/mem", "rb"))
refused(lambda: Path("/proc/self/clear_refs").write_text("5"))
refused(lambda: threading.Thread(target=print).start())
refused(lambda: os.memfd_create("a"))
refused(lambda: os.chmod(__file__, 0))
refused(lambda: os.utime(__file__))
refused(lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.msgget(0, 0o1600) == libc.semget(0, 1, 0o1600) == libc.shmget(0, 8, 0o1600) == -1
assert "CapEff:\\t0000000000000000" in Path("/proc/self/status").read_text()
assert prctl(1, 0, 0, 0, 0) == -1, "it may outlive the grader"
"""


@pytest.mark.skipif(not HAS_LANDLOCK, reason="needs Linux with Landlock")
def test_files_threads_and_the_graders_memory_are_closed_to_it(tmp_path):
    slot = graded(tmp_path, CLOSED + RIGHT)
    assert slot.points == 5, slot.checks[0].measured
    assert os.listdir(tmp_path) == ["hw0_one_detached_line.py"]


def test_a_few_bytes_cannot_stand_for_gigabytes(tmp_path):
    text = right_answer("hw1").read_text()
    wide = text.replace("return x, self.amplitude", "return x.expand(-1, 2**20), self.amplitude")
    assert wide != text
    (tmp_path / "hw1_new_family.py").write_text(wide)
    (slot,) = grade(tmp_path, only=["hw1"], check="data are alive").slots
    said = {check.measured for check in slot.checks if not check.points}
    assert any("at most 131072 can be graded" in words or "too large" in words for words in said)


def test_a_grader_that_is_killed_leaves_nothing_running(tmp_path):
    text = inside("import time\n", ["time.sleep(60)"])
    (tmp_path / "hw0_one_detached_line.py").write_text(text)
    command = [sys.executable, "-m", "nested.homework", "grade", str(tmp_path), "--only", "hw0"]
    grader = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until(lambda: workers_of(grader.pid))
    started = {*workers_of(grader.pid), *children_of(grader.pid)}
    grader.kill()
    grader.wait()
    wait_until(lambda: not started & set(processes()))


def processes():
    """All processes: {number: (the parent's number, the command line)}."""
    lines = os.popen("ps -eww -o pid=,ppid=,args=").read().splitlines()
    rows = [line.split(None, 2) for line in lines]
    return {int(pid): (int(parent), args) for pid, parent, args in (row for row in rows if row[2:])}


def children_of(parent):
    return [pid for pid, (above, _) in processes().items() if above == parent]


def workers_of(grader):
    """The processes that run a student's code for a grader: see nested/homework/forks.py."""
    found, all_of_them = [], processes()
    for pid in children_of(grader):
        args = all_of_them.get(pid, (0, ""))[1]
        found += [pid] if "nested.homework.worker" in args else []
        found += children_of(pid) if "nested.homework.forks" in args else []
    return found


def wait_until(true):
    for _ in range(300):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("waited for 30 seconds")


WRONG_FORMS = {
    "losses that are not numbers": ("torch.stack(losses)", "torch.stack(losses) * torch.nan"),
    "weights of another shape": (
        "return params,",
        "return {n: w[None] for n, w in params.items()},",
    ),
    "weights of another kind": (
        "return params,",
        "return {n: w.float() for n, w in params.items()},",
    ),
    "no dict": ("return params,", "return list(params.values()),"),
}


@pytest.mark.parametrize("form", WRONG_FORMS)
def test_answers_in_a_wrong_form_are_wrong_and_the_report_is_whole(form, tmp_path):
    old, new = WRONG_FORMS[form]
    assert old in RIGHT
    assert graded(tmp_path, RIGHT.replace(old, new)).points <= 1


def test_a_folder_that_is_a_link_does_not_count(tmp_path):
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "homework").symlink_to(right_answer("hw0").parent)
    assert grade(tmp_path, only=["hw0"]).slots[0].status == "missing"
