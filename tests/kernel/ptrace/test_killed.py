"""The helper dies by SIGKILL at every point of its work; the target lives, and can be attached to again."""

from __future__ import annotations

import os
import signal

import pytest

from tests.kernel.ptrace.target import Target, have_a_helper, kill_helper_at, request
from writewatch.kernel.ptrace.taking import POINTS

pytestmark = pytest.mark.usefixtures("attachable", "x86_64")


def attach(target: Target) -> None:
    answer, fd = request(target.pid, target.tid)
    assert answer.get("restores_itself"), answer
    os.close(fd)


@pytest.mark.parametrize("point", POINTS)
def test_a_spinning_thread_goes_on(point: str, soak: int) -> None:
    with Target("spinning") as target:
        target.await_running()
        before = target.signals()
        for _ in range(soak):
            kill_helper_at(point, target.pid, target.tid)
        attach(target)
        assert target.signals() == before
        target.send(signal.SIGUSR1)
        assert target.line() == "0 1", "its registers are not what they were, or it does not run"


@pytest.mark.parametrize("point", POINTS)
def test_a_sleeping_thread_sleeps_on_with_its_signals(point: str, soak: int) -> None:
    with Target("signals") as target:
        target.await_syscall()
        before = target.signals()
        for _ in range(soak):
            kill_helper_at(point, target.pid, target.tid)
            target.await_syscall()
        attach(target)
        assert target.signals() == before
        target.send(signal.SIGRTMIN)
        target.say()
        assert target.line() == "1"


@pytest.mark.parametrize("point", ["registers set", "at the entry", "at the exit", "signals unblocked"])
@pytest.mark.parametrize("name", ["nanosleep", "epoll_wait", "futex", "wait4", "sigtimedwait"])
def test_an_interrupted_call_has_its_result(name: str, point: str) -> None:
    have_a_helper()
    with Target("blocking", name) as alone, Target("blocking", name) as target:
        target.await_syscall()
        kill_helper_at(point, target.pid, target.tid)
        assert target.line().split()[:2] == alone.line().split()[:2]
