"""Which thread is stopped: the one that notices least; never one that a stop would catch later."""

from __future__ import annotations

import pytest

from writewatch.kernel.ptrace.threads import Thread, best_first, rank, read_thread, read_threads

pytestmark = pytest.mark.usefixtures("x86_64")

FUTEX, READ, EPOLL_WAIT, VFORK, CLONE, CLONE3 = 202, 0, 232, 58, 56, 435


def test_an_idle_thread_of_a_pool_comes_first_and_one_that_runs_last() -> None:
    runs, waits = Thread(1, "R", None), Thread(2, "S", EPOLL_WAIT)
    reads, idle = Thread(3, "S", READ), Thread(4, "S", FUTEX)
    assert best_first([runs, waits, reads, idle]) == [idle, reads, waits, runs]


@pytest.mark.parametrize("state", "DZXPI")
def test_a_thread_in_such_a_state_is_never_stopped(state: str) -> None:
    assert rank(Thread(1, state, FUTEX)) is None


@pytest.mark.parametrize("call", [VFORK, CLONE, CLONE3])
@pytest.mark.parametrize("state", "SD")
def test_a_thread_that_waits_for_a_vfork_child_is_never_stopped(call: int, state: str) -> None:
    assert rank(Thread(1, state, call)) is None


def test_a_thread_without_a_filter_comes_before_any_with() -> None:
    filtered, runs = Thread(1, "S", FUTEX, seccomp=2), Thread(2, "R", None)
    assert best_first([filtered, runs]) == [runs, filtered]


def test_a_thread_of_a_stopped_group_can_be_tried() -> None:
    assert rank(Thread(1, "T", None)) == 1


def test_a_thread_that_has_ended_is_left_out() -> None:
    assert read_thread(1, 4194304) is None
    assert read_threads(4194304) == []
