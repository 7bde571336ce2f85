"""A call that fails at any point of a collect loses nothing: the next collect reports what this one would have."""

from __future__ import annotations

import contextlib
import errno
from typing import Any

import pytest

import writewatch as ww
from tests.tracker.door import Memory, require
from writewatch.errors import WriteWatchError
from writewatch.kernel.calls import LinuxCalls

N_PAGES = 48


CALLS = {name for name in vars(LinuxCalls) if not name.startswith("_")}


class FaultyCalls(LinuxCalls):
    """The running kernel, whose n-th call fails: before it is made, or after it has had its effect."""

    countdown, after, made = -1, False, 0

    def arm(self, fails_at: int, *, after: bool) -> None:
        self.countdown, self.after, self.made = fails_at, after, 0

    def disarm(self) -> None:
        self.countdown, self.after, self.made = -1, False, 0

    def __getattribute__(self, name: str) -> Any:
        call = super().__getattribute__(name)
        if name not in CALLS:
            return call

        def counted(*arguments: Any) -> Any:
            self.made += 1
            fails = self.made - 1 == self.countdown
            if fails and not self.after:
                raise OSError(errno.EAGAIN, f"{name}: injected before")
            result = call(*arguments)
            if fails:
                raise OSError(errno.EAGAIN, f"{name}: injected after")
            return result

        return counted


BACKENDS = ("uffd-wp", "content-hash", "uffd-wp-sync", "soft-dirty")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_collect_that_fails_at_any_call_loses_nothing(backend: str, after: bool) -> None:
    calls: Any = FaultyCalls()
    require(calls, backend)
    memory = Memory(LinuxCalls(), N_PAGES)
    with ww.track(memory.part(0, 20), memory.part(24, N_PAGES), backend=backend, calls=calls) as tracker:
        other = tracker.consumer("other")
        n_calls = _calls_of_a_collect(calls, tracker)
        failed = 0
        for at in range(n_calls):
            memory.write(3)
            memory.write(30)
            calls.arm(at, after=after)
            try:
                found = _pages(tracker.collect(), memory)
            except (OSError, WriteWatchError):
                failed += 1
                found = set()
            calls.disarm()
            found |= _pages(tracker.collect(), memory)
            assert {3, 30} <= found, f"call {at} of {n_calls}"
            assert {3, 30} <= _pages(other.collect(), memory)
            rest = tracker.collect()
            # A backend that is not exact may have been disturbed by somebody else's fault, and says so.
            assert not _pages(rest, memory) or not rest.exact
        assert failed or backend == "content-hash"
    memory.close()


def _calls_of_a_collect(calls: Any, tracker: ww.Tracker) -> int:
    tracker.collect()
    calls.disarm()
    tracker.collect()
    made: int = calls.made
    assert made
    return made


def _pages(dirty: ww.DirtySet, memory: Memory) -> set[int]:
    pages = set(dirty.pages(memory.part(0, 20)).tolist())
    return pages | {page + 24 for page in dirty.pages(memory.part(24, N_PAGES)).tolist()}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_clean_that_fails_loses_nothing(backend: str, after: bool) -> None:
    calls: Any = FaultyCalls()
    require(calls, backend)
    memory = Memory(LinuxCalls(), N_PAGES)
    with ww.track(memory.span, backend=backend, calls=calls) as tracker:
        tracker.collect()
        for at in range(4):
            memory.write(5)
            calls.arm(at, after=after)
            with contextlib.suppress(OSError, WriteWatchError):
                assert not tracker.is_clean()
            calls.disarm()
            assert 5 in memory.pages(tracker.collect())
    memory.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tracker_that_cannot_be_made_leaves_the_others_as_they_were(backend: str, after: bool) -> None:
    calls: Any = FaultyCalls()
    require(calls, backend)
    memory = Memory(LinuxCalls(), N_PAGES)
    with ww.track(memory.part(0, 20), backend=backend, calls=calls) as tracker:
        tracker.collect()
        for at in range(24):
            memory.write(9)
            calls.arm(at, after=after)
            with contextlib.suppress(OSError, WriteWatchError):
                ww.track(memory.part(10, 30), backend=backend, calls=calls).close()
            calls.disarm()
            memory.write(15)
            found = set(tracker.collect().pages(memory.part(0, 20)).tolist())
            assert {9, 15} <= found, f"call {at}"
    memory.close()
