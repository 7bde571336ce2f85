"""Without rights: a user on the own process, on another's, and under a filter of system calls."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from tests.kernel import seccomp
from tests.kernel.ptrace.target import Target

pytestmark = pytest.mark.usefixtures("attachable")

_ATTACH = """
import os, subprocess, sys
from writewatch.errors import AttachError
from writewatch.kernel.ptrace.attaching import take_userfaultfd
{before}
child = None if sys.argv[1:] else subprocess.Popen(["sleep", "60"], preexec_fn={preexec})
try:
    os.close(take_userfaultfd(child.pid if child else int(sys.argv[1]), deadline_s=10).fd)
    print("taken")
except AttachError as error:
    print(error)
finally:
    child and child.kill()
"""
_KEEP_OUT = """
import subprocess, sys
from writewatch.errors import AttachError
from writewatch.kernel.ptrace.attaching import take_userfaultfd
hidden = "import ctypes; ctypes.CDLL(None).prctl(4, 0); print(flush=True); input()"
with subprocess.Popen([sys.executable, "-c", hidden], stdin=-1, stdout=-1) as child:
    child.stdout.readline()
    try:
        take_userfaultfd(child.pid)
    except AttachError as error:
        print(error)
    child.communicate(b"\\n")
"""
_LAUNCH = """
import os
from writewatch.kernel.ptrace.launching import launch
{before}
with launch(["true"]) as program:
    memory = program.next_event()
    print(memory.reason or "taken")
    program.release(program.pid)
    print(program.next_event().status)
"""
#: A filter that allows everything.
_FILTER = """
import ctypes, struct
steps = struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]
libc = ctypes.CDLL(None)
def install():
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.prctl(22, 2, ctypes.byref(Program(1, steps)), 0, 0) == 0
"""


def command(program: str, before: str = "", preexec: str = "None") -> list[str]:
    return [sys.executable, "-c", program.format(before=before, preexec=preexec)]


def test_a_user_attaches_to_a_process_of_the_same_user() -> None:
    done = seccomp.run_unprivileged(command(_ATTACH))
    assert done.stdout == "taken\n", done.stderr


def test_a_user_is_told_whose_process_it_is() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with Target("states", "asleep") as target:
        done = seccomp.run_unprivileged([*command(_ATTACH), str(target.pid)])
        assert done.stdout.endswith("belongs to user 0; run as root or with CAP_SYS_PTRACE\n"), done.stderr
        target.is_untraced()


def test_a_process_that_keeps_others_out_is_named_so() -> None:
    done = seccomp.run_unprivileged([sys.executable, "-c", _KEEP_OUT])
    assert "keeps others from its memory (PR_SET_DUMPABLE is 0)" in done.stdout, done.stderr


def test_a_user_leaves_a_process_with_a_filter_alone() -> None:
    done = seccomp.run_unprivileged(command(_ATTACH, _FILTER, "install"))
    assert done.stdout.endswith("filters system calls and a filter may kill it; run as root\n"), done.stderr


def test_a_user_launches_a_program() -> None:
    done = seccomp.run_unprivileged(command(_LAUNCH))
    assert done.stdout == "taken\n0\n", done.stderr


@pytest.mark.skipif(not seccomp.is_available(), reason="the filter is not written for this machine")
def test_a_program_that_is_launched_under_a_filter_is_asked_nothing_that_we_may_not_do() -> None:
    done = seccomp.run_under_seccomp(errno.EPERM, command(_LAUNCH))
    first, status = done.stdout.split("\n")[:2]
    assert "may not open a userfaultfd: EPERM" in first, done.stderr
    assert status == "0"


def test_a_program_that_is_launched_under_our_own_filter_that_allows_it() -> None:
    done = subprocess.run(
        command(_LAUNCH, f"{_FILTER}\ninstall()"), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "taken\n0\n", done.stderr
