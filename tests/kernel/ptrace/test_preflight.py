"""Every refusal is a sentence, judged from facts alone: no such process is needed."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from writewatch.errors import AttachError, UsageError
from writewatch.kernel.ptrace.facts import Facts, Observer, read_facts
from writewatch.kernel.ptrace.preflight import (
    call_refused,
    cannot_be_stopped,
    check,
    judge,
    no_right,
    refusal,
)
from writewatch.kernel.ptrace.threads import Thread

ROOT = Observer(pid=1, uid=0, traces_any=True, suspends_filters=True)
USER = Observer(pid=1, uid=1000, traces_any=False, suspends_filters=False)
ASLEEP = Thread(4711, "S", 202)


def facts(**changes: Any) -> Facts:
    usual = Facts(4711, ROOT, name="server", leader=4711, threads=(ASLEEP,), uids=(1000, 1000, 1000))
    return dataclasses.replace(usual, **changes)


def under(by: Observer, **changes: Any) -> dict[str, Any]:
    return {"by": dataclasses.replace(by, **changes)}


FILTERED = (Thread(4711, "S", 202, seccomp=2),)
TRACED = (Thread(4711, "t", None, tracer=4700),)

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"exists": False}, "no process 4711"),
    "thread": ({"leader": 4700}, "4711 is a thread of process 4700; give that number"),
    "zombie": ({"threads": (Thread(4711, "Z", None),)}, "process 4711 has already exited (zombie)"),
    "kernel thread": (
        {"is_kernel_thread": True, "name": "kworker"},
        "4711 (kworker) is a kernel thread: it has no memory to track",
    ),
    "traced": (
        {"tracer": (4700, "strace"), "threads": TRACED},
        "4711 is being traced by strace (pid 4700); detach it for a moment (it may return after attaching)",
    ),
    "followed by a launcher": (
        {"tracer": (4700, "writewatch"), "threads": TRACED},
        "4711 is followed by another writewatch (pid 4700); end that first",
    ),
    "32-bit": ({"is_32_bit": True}, "4711 is a 32-bit process: not supported"),
    "frozen": ({"frozen_by": "/x"}, "4711 is frozen by cgroup /x; thaw it first"),
    "filtered": (
        {"threads": FILTERED, **under(USER)},
        "4711 filters system calls and a filter may kill it; run as root",
    ),
    "filtered in a container": (
        {"threads": FILTERED, **under(ROOT, suspends_filters=False)},
        "4711 filters system calls and a filter may kill it; give this process CAP_SYS_ADMIN and start it "
        "without a filter of its own (outside of the container)",
    ),
    "yama 1": (
        under(USER, yama=1),
        "only children may be attached (kernel.yama.ptrace_scope is 1): use writewatch run -- CMD, or root",
    ),
    "yama 2": (
        under(USER, yama=2),
        "attaching to 4711 takes CAP_SYS_PTRACE (kernel.yama.ptrace_scope is 2): run as root or with CAP_SYS_PTRACE",
    ),
    "yama 3": (
        under(ROOT, yama=3),
        "nobody may attach to 4711 (kernel.yama.ptrace_scope is 3): use writewatch run -- CMD",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_a_sentence(case: str) -> None:
    changes, sentence = REFUSALS[case]
    assert refusal(facts(**changes)) == sentence
    with pytest.raises(AttachError) as caught:
        judge(facts(**changes))
    assert (str(caught.value), caught.value.pid) == (sentence, 4711)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        under(ROOT, yama=2),
        under(ROOT, yama=1),
        {"threads": (Thread(4711, "Z", None), Thread(4712, "S", 202))},
        {"tracer": (4700, "gdb"), "threads": (*TRACED, Thread(4712, "S", 202))},
        {"threads": FILTERED},
    ],
)
def test_what_is_no_reason_to_refuse(changes: dict[str, Any]) -> None:
    assert refusal(facts(**changes)) is None
    assert judge(facts(**changes))


def test_ourselves_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(UsageError, match=r"^use Tracker\(\) for the own process$"):
        check(os.getpid())


def test_threads_that_cannot_be_stopped_are_none_to_try() -> None:
    assert judge(facts(threads=(Thread(4711, "D", 0),))) == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vfork_child": 4712}, "no thread of 4711 can be stopped now (waiting for vfork child 4712)"),
        (
            {"threads": (Thread(4711, "D", 0), Thread(4712, "Z", None))},
            "no thread of 4711 can be stopped now (its threads are in state DZ; try again)",
        ),
    ],
)
def test_why_no_thread_can_be_stopped(changes: dict[str, Any], sentence: str) -> None:
    assert cannot_be_stopped(facts(**changes)) == sentence


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({**under(USER), "uids": (0, 0, 0)}, "belongs to user 0; run as root or with CAP_SYS_PTRACE"),
        (
            {**under(USER), "gains_rights": True},
            "gained rights from its file (set-uid or capabilities); run as root",
        ),
        ({**under(USER), "uids": (1000, 0, 0)}, "gained rights from its file"),
        (
            {**under(USER), "is_dumpable": False},
            "keeps others from its memory (PR_SET_DUMPABLE is 0); run as root",
        ),
        (under(USER), "may not be traced by this process; run as root"),
        ({}, "although CAP_SYS_PTRACE is there"),
        ({**under(USER), "uids": (0, 0, 0), "threads": FILTERED}, "belongs to user 0"),
    ],
)
def test_the_cause_of_a_missing_right_is_named(changes: dict[str, Any], part: str) -> None:
    assert part in no_right(facts(**changes))


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENOSYS, errno.EPERM, errno.ENFILE, errno.ENOMEM, errno.EIO]
)
def test_the_targets_own_errno_is_named(number: int) -> None:
    sentence = call_refused(4711, number)
    assert sentence.startswith(f"the target 4711 may not open a userfaultfd: {errno.errorcode[number]}, ")


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(AttachError, match=r"^no process 4194304$"):
        check(4194304)  # above PID_MAX_LIMIT


def test_a_zombie() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(AttachError, match=rf"^process {child.pid} has already exited \(zombie\)$"):
            check(child.pid)


def test_a_kernel_thread() -> None:
    if "Kthread:\t1" not in (Path("/proc/2/status").read_text() if Path("/proc/2/status").exists() else ""):
        pytest.skip("process 2 is no kernel thread here: a pid namespace of its own")
    with pytest.raises(AttachError, match=r"^2 \(kthreadd\) is a kernel thread"):
        check(2)


def test_facts_of_a_process_that_sleeps() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = read_facts(child.pid)
        assert found.exists
        assert found.leader == child.pid
        assert not found.is_kernel_thread
        assert not found.is_32_bit
        assert found.tracer is None
        assert found.uids == os.getresuid()
        assert found.is_dumpable
        assert found.frozen_by is None
        assert [thread.tid for thread in found.threads] == [child.pid]
        child.communicate(b"\n")
