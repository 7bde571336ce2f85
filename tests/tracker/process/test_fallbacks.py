"""Backends for targets that may not have a userfaultfd, and how one is chosen."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import writewatch as ww
from tests.tracker.process.targets import HandedOver, Target, is_running, pages_in, reported
from writewatch.abi.pagemap import PM_PRESENT, PM_SOFT_DIRTY
from writewatch.kernel.calls import LinuxCalls
from writewatch.tracker.process.procfiles import ProcFiles
from writewatch.tracker.process.select import NoUserfaultfdError
from writewatch.tracker.process.soft_dirty import SoftDirtyProcess


@pytest.fixture(params=["uffd-wp", "soft-dirty", "content-hash"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that works here."""
    name: str = request.param
    needs = {"uffd-wp": "uffd_wp_async", "soft-dirty": "soft_dirty"}.get(name)
    if needs and not ww.capabilities().works(needs):
        pytest.skip(f"{name}: {ww.capabilities()[needs].detail}")
    return name


# ---- the same contract for all -------------------------------------------------------------------


def test_no_written_page_is_missing(target: Target, backend: str) -> None:
    start = target.memory(64)
    target.run(f"poke({start}, *range(32))")
    with ww.attach(target.pid, backend=backend) as tracker:
        assert tracker.backend == backend
        assert tracker.reason.startswith(f"{backend}: ")
        for value in range(2, 5):
            target.run(f"poke({start}, {value}, 20 + {value}, 40 + {value}, value={value})")
            writes = tracker.collect()
            assert set(reported(writes, start, 64)) >= {value, 20 + value, 40 + value}
            assert writes.backend == backend
            if writes.exact:
                assert reported(writes, start, 64) == [value, 20 + value, 40 + value]
    assert is_running(target.process)


def test_pages_given_back_are_reported(target: Target, backend: str) -> None:
    start = target.memory(64)
    target.run(f"poke({start}, *range(64))")
    with ww.attach(target.pid, backend=backend) as tracker:
        target.run(f"ok(libc.madvise({start}, 8 * P, 4))")
        assert pages_in(tracker.collect().discarded, start, 64) == list(range(8))


def test_memory_that_appears_is_reported(target: Target, backend: str) -> None:
    with ww.attach(target.pid, backend=backend) as tracker:
        start = target.memory(64)
        target.run(f"poke({start}, 7)")
        assert reported(tracker.collect(), start, 64) == [7]


def test_memory_that_cannot_be_read_by_its_owner_is_watched(target: Target, backend: str) -> None:
    start = target.memory(4)
    target.run(f"poke({start}, *range(4)); ok(libc.mprotect({start}, 4 * P, NONE))")
    with ww.attach(target.pid, backend=backend) as tracker:
        tracker.collect()
        target.run(
            f"ok(libc.mprotect({start}, 4 * P, RW)); poke({start}, 2, value=9); ok(libc.mprotect({start}, 4 * P, NONE))"
        )
        assert 2 in reported(tracker.collect(), start, 4)


def test_exit_and_exec_are_told_apart(target: Target, backend: str) -> None:
    with ww.attach(target.pid, backend=backend) as tracker:
        target.process.send_signal(signal.SIGKILL)
        assert tracker.wait(10)
        with pytest.raises(ww.TrackingLostError, match="has exited"):
            tracker.collect()


def test_a_hash_tells_that_a_value_stayed_the_same(target: Target) -> None:
    start = target.memory(8)
    target.run(f"poke({start}, 1, 2)")
    with ww.attach(target.pid, backend="content-hash") as tracker:
        target.run(f"poke({start}, 1); poke({start}, 2, value=2)")
        writes = tracker.collect()
        assert pages_in(writes.written, start, 8) == [2]
        assert writes.exact
        assert "all" in tracker.reason
        assert "MiB of its memory each time" in tracker.reason


# ---- choosing ------------------------------------------------------------------------------------


def refuses(pid: int) -> ww.ProcessTracker:
    raise ww.AttachError(f"the target {pid} may not open a userfaultfd: EMFILE", pid)


@pytest.mark.kernel("uffd_wp_async")
def test_a_target_that_may_not_have_a_userfaultfd_is_watched_otherwise_and_why_is_said(
    target: Target,
) -> None:
    with ww.attach(target.pid, take=refuses) as tracker:  # type: ignore[arg-type]
        assert tracker.backend in ("soft-dirty", "content-hash")
        assert tracker.reason.startswith(
            f"uffd-wp: the target {target.pid} may not open a userfaultfd: EMFILE; "
        )
        start = target.memory(8)
        target.run(f"poke({start}, 3)")
        assert 3 in reported(tracker.collect(), start, 8)


def test_a_launched_program_may_be_watched_otherwise() -> None:
    with ww.launch(["sleep", "1000"], backend="content-hash") as tracker:
        try:
            assert tracker.collect().backend == "content-hash"
        finally:
            os.kill(tracker.pid, signal.SIGKILL)
        assert tracker.wait(10)
        assert tracker.exit_status == -signal.SIGKILL


def test_a_program_that_is_handed_over_without_a_userfaultfd_is_watched_otherwise(target: Target) -> None:
    def take(pid: int) -> HandedOver:
        raise NoUserfaultfdError("its filter forbids it", pid)

    with ww.attach(target.pid, take=take) as tracker:
        assert "its filter forbids it" in tracker.reason or not ww.capabilities().works("uffd_wp_async")
        assert tracker.backend != "uffd-wp"


@pytest.mark.kernel("uffd_wp_async")
def test_a_backend_asked_for_by_name_is_not_replaced(target: Target) -> None:
    with pytest.raises(ww.AttachError, match="may not open a userfaultfd"):
        ww.attach(target.pid, backend="uffd-wp", take=refuses)  # type: ignore[arg-type]


def test_a_backend_that_does_not_exist_is_named_with_those_that_do(target: Target) -> None:
    with pytest.raises(
        ww.UsageError, match="no backend 'magic'; choose auto, uffd-wp, soft-dirty, content-hash"
    ):
        ww.attach(target.pid, backend="magic")


def test_what_cannot_be_watched_is_refused_with_a_reason() -> None:
    with pytest.raises(ww.AttachError, match="no process 4194304"):
        ww.attach(1 << 22)
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ww.AttachError, match="exited"):
            ww.attach(ended.pid)


def test_the_own_process_is_not_watched_from_outside() -> None:
    with pytest.raises(ww.UsageError, match=r"use Tracker\(\) for the own process"):
        ww.attach(os.getpid())


# ---- soft-dirty, on a kernel that has none ---------------------------------------------------------


class PretendedBits(LinuxCalls):
    """A kernel that keeps soft-dirty bits for pages that a test names.

    Attributes:
        dirty: Page numbers with the bit.
        on_clear: Run before the bits are cleared, as a writer would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dirty: set[int] = set()
        self.on_clear: Callable[[], object] = lambda: None

    def read_pagemap(
        self, fd: int, first_page: int, n_pages: int, out: NDArray[np.uint64] | None = None
    ) -> NDArray[np.uint64]:
        entries = super().read_pagemap(fd, first_page, n_pages, out)
        entries &= ~np.uint64(PM_SOFT_DIRTY)  # of a kernel that does keep them
        for page in self.dirty:
            at = page - first_page
            if 0 <= at < len(entries) and entries[at] & np.uint64(PM_PRESENT):
                entries[at] |= np.uint64(PM_SOFT_DIRTY)
        return entries

    def clear_refs(self, pid: int | None, value: int) -> None:
        assert (pid, value) != (None, 4)
        self.on_clear()
        self.dirty.clear()


def test_soft_dirty_bits_are_read_then_cleared(target: Target) -> None:
    calls = PretendedBits()
    start = target.memory(8)
    target.run(f"poke({start}, *range(8))")
    files = ProcFiles(target.pid, calls)
    try:
        watcher = SoftDirtyProcess(files, calls)
        watcher.start(report=False)
        calls.dirty = {start // 4096 + 3}
        watcher.look()
        assert pages_in(watcher.sighting.written, start, 8) == [3]
        assert not watcher.sighting.exact
        watcher.accept()
        calls.dirty = {start // 4096 + 4}
        calls.on_clear = lambda: target.run(f"ok(libc.madvise({start}, P, 4)); poke({start}, 0)")
        watcher.look()
        assert pages_in(watcher.sighting.written, start, 8) == [4]
        assert pages_in(watcher.sighting.assumed, start, 8) == list(range(8))  # it took faults meanwhile
        assert any("took faults" in note for note in watcher.sighting.notes)
    finally:
        files.close()


def test_what_comes_between_reading_the_bits_and_clearing_them_is_assumed_at_the_next_look(
    target: Target,
) -> None:
    calls = PretendedBits()
    start, came = target.memory(8), 0
    target.run(f"poke({start}, 1)")

    def write() -> None:
        nonlocal came
        calls.on_clear = lambda: None
        came = target.memory(8)
        target.run(f"poke({start}, 2); poke({came}, 3)")

    files = ProcFiles(target.pid, calls)
    try:
        watcher = SoftDirtyProcess(files, calls)
        watcher.start(report=False)
        calls.on_clear = write
        watcher.look()
        watcher.accept()
        watcher.look()
        assert pages_in(watcher.sighting.assumed, start, 8) == [2]
        assert pages_in(watcher.sighting.assumed, came, 8) == [3]
        watcher.accept()
        watcher.look()
        assert pages_in(watcher.sighting.assumed, start, 8) == []
    finally:
        files.close()
