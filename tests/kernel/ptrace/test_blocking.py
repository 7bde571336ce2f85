"""A thread that sleeps in a system call is stopped there, and the call ends as it would have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.kernel.ptrace.target import Target, request

pytestmark = pytest.mark.usefixtures("attachable")

LIMIT_US = 250_000
ATTACHES = 3
#: The program's own limit of time ends these; the others end when a child does what they wait for.
TIMED = {
    "futex", "poll", "ppoll", "select", "pselect", "nanosleep", "clock_nanosleep", "epoll_wait", "epoll_pwait",
    "epoll_pwait2", "sigtimedwait", "semtimedop", "mq_timedreceive", "io_uring_enter", "recv_timeout", "accept_timeout",
    "read_timerfd",
}  # fmt: skip
WOKEN = {"read_pipe", "read_eventfd", "recv", "recvmsg", "wait4", "lock", "msgrcv"}


@pytest.fixture(scope="module")
def ends(attachable: None) -> Iterator[dict[str, tuple[list[int], list[int]]]]:
    """Call -> (result, errno, microseconds) of one left alone, and of one attached to. All sleep at the same time."""
    with ExitStack() as running:
        pairs = {}
        for name in sorted(TIMED | WOKEN):
            alone, attached = (running.enter_context(Target("blocking", name)) for _ in range(2))
            for _ in range(ATTACHES):
                attached.await_syscall()
                answer, fd = request(attached.pid, attached.pid)
                assert "failed" not in answer, (name, answer)
                os.close(fd)
            pairs[name] = alone, attached
        yield {name: (_numbers(alone), _numbers(attached)) for name, (alone, attached) in pairs.items()}


def _numbers(target: Target) -> list[int]:
    return [int(word) for word in target.line().split()]


@pytest.mark.parametrize("name", sorted(TIMED | WOKEN))
def test_a_blocking_call_ends_as_if_nobody_had_attached(
    name: str, ends: dict[str, tuple[list[int], list[int]]]
) -> None:
    alone, attached = ends[name]
    if alone[0] == -100 or alone[1] == 38:
        pytest.skip(f"this kernel or its limits have no {name}")
    assert attached[:2] == alone[:2]


@pytest.mark.parametrize("name", sorted(TIMED))
def test_a_limit_of_time_is_not_cut_short(name: str, ends: dict[str, tuple[list[int], list[int]]]) -> None:
    alone, attached = ends[name]
    assert attached[2] >= min(LIMIT_US, alone[2])
