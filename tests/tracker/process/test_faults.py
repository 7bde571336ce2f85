"""Whatever fails in the middle of a collect, nothing that was written is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import random

import pytest

import writewatch as ww
from tests.tracker.process.failing import FailingCalls
from tests.tracker.process.targets import Target, reported
from writewatch.tracker.process.records import Options
from writewatch.tracker.process.select import take_by_ptrace

pytestmark = pytest.mark.kernel("uffd_wp_async")

SMALL, LARGE = 256, 2048


def watched(target: Target, calls: FailingCalls) -> ww.ProcessTracker:
    return ww.ProcessTracker(target.pid, Options("uffd-wp", False, False, None, take_by_ptrace, calls))


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


FAILURES = {
    "no memory": (error(errno.ENOMEM), False),
    "interrupted": (error(errno.EINTR), False),
    "bad address": (error(errno.EFAULT), False),
    "a signal handler raises": (KeyboardInterrupt(), True),
    "a signal handler raises TimeoutError": (TimeoutError("too late"), True),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_each_failing_call_in_turn_loses_nothing(target: Target, kind: str) -> None:
    failure, done = FAILURES[kind]
    small, large = (
        target.memory(SMALL),
        target.memory(LARGE),
    )  # the large one has pages that are never touched before
    target.run(f"poke({small}, *range({SMALL})); poke({large}, *range({SMALL}))")
    calls = FailingCalls()
    chance = random.Random(kind)
    with watched(target, calls) as tracker:
        tracker.collect()
        calls.arm(0, failure)
        tracker.collect()
        for at in range(1, calls.n_calls + 2):
            tracker.collect()
            pages = [*chance.sample(range(SMALL), 20), SMALL + at]
            target.run(f"poke({small}, *{pages[:-1]}); poke({large}, *{pages})")
            calls.arm(at, failure, done=done)
            found: list[set[int]] = [set(), set()]
            with contextlib.suppress(OSError if isinstance(failure, OSError) else type(failure)):
                add(found, tracker.collect(), small, large)
            calls.disarm()
            add(found, tracker.collect(), small, large)
            assert found[0] >= set(pages[:-1]), at
            assert found[1] >= set(pages), at


def add(found: list[set[int]], writes: ww.ProcessWrites, small: int, large: int) -> None:
    found[0].update(reported(writes, small, SMALL))
    found[1].update(reported(writes, large, LARGE))


def test_a_scan_that_failed_is_told_and_what_held_data_behind_it_is_assumed(target: Target) -> None:
    start = target.memory(SMALL)
    target.run(f"poke({start}, *range({SMALL}))")
    calls = FailingCalls()
    with watched(target, calls) as tracker:
        tracker.collect()
        calls.arm(0, error(errno.ENOMEM))
        tracker.collect()
        n_calls = calls.n_calls
        told = []
        for at in range(1, n_calls + 1):
            calls.arm(at, error(errno.ENOMEM))
            with contextlib.suppress(OSError):
                told += [note for note in tracker.collect().notes if "could not be scanned" in note]
        calls.disarm()
        assert told
        tracker.collect()
        assert not any("could not be scanned" in note for note in tracker.collect().notes)


def test_a_report_that_could_not_be_named_is_part_of_the_next(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = target.memory(8)
    with ww.attach(target.pid) as tracker:
        target.run(f"poke({start}, 3)")
        with monkeypatch.context() as patch:
            patch.setattr(tracker._session, "mappings", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                tracker.collect()
        target.run(f"poke({start}, 5)")
        writes = tracker.collect()
        assert reported(writes, start, 8) == [3, 5]
        assert writes.epoch == 0


def test_attaching_that_fails_leaves_nothing_behind(target: Target) -> None:
    calls = FailingCalls()
    watched(target, calls).close()  # what is opened once and kept is open now
    calls.arm(0, error(errno.ENOMEM))
    descriptors = set(os.listdir("/proc/self/fd"))
    with watched(target, calls):
        n_calls = calls.n_calls
    for at in range(1, n_calls + 1, 3):
        calls.arm(at, error(errno.EFAULT))
        with contextlib.suppress(OSError, ww.WriteWatchError):
            watched(target, calls).close()
        calls.disarm()
        with watched(target, calls) as tracker:
            tracker.collect()
    assert set(os.listdir("/proc/self/fd")) == descriptors
