"""Nothing is left behind: descriptors, mappings, registrations and processes counted before and after."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pathlib
import warnings
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

import numpy as np
import pytest

import writewatch as ww
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.maps import read_smaps
from writewatch.tracker.select import BACKENDS

#: Trackers made, used and closed; fewer where each hashes its memory or starts a process.
CYCLES = {"uffd-wp": 100, "soft-dirty": 50, "content-hash": 30, "uffd-wp-sync": 8, "every-page": 50}
#: Mappings that Python's allocator may have made meanwhile.
ARENAS = 4


class Held(NamedTuple):
    """What this process holds."""

    descriptors: tuple[str, ...]
    n_mappings: int
    n_registered: int
    children: tuple[str, ...]


def held() -> Held:
    gc.collect()
    tasks = pathlib.Path("/proc/self/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    descriptors = sorted(_targets())
    smaps = read_smaps()
    return Held(
        tuple(descriptors), len(smaps), sum(one.is_registered_wp for one in smaps), tuple(sorted(children))
    )


def _targets() -> list[str]:
    """What each descriptor leads to; the one for listing them has gone when it is asked."""
    targets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            targets.append(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return targets


def assert_nothing_is_left(before: Held, *, arenas: int = ARENAS) -> None:
    after = held()
    assert after.descriptors == before.descriptors
    assert after.n_registered == before.n_registered
    assert after.children == before.children
    assert after.n_mappings <= before.n_mappings + arenas


def use(table: np.ndarray[Any, Any], backend: str) -> None:
    with ww.track(table, table[3:9], backend=backend) as tracker:
        table[5] += 1
        tracker.collect()
        tracker.consumer("backup").is_clean()


@pytest.fixture
def table(page_size: int) -> np.ndarray[Any, Any]:
    """Some pages, when everything that is imported on use has been."""
    pages = ww.allocate((64, page_size), "u1")
    use(pages, "auto")
    use(pages, "content-hash")
    return pages


def test_many_trackers_after_each_other_leave_nothing(backend: str, table: np.ndarray[Any, Any]) -> None:
    for _ in range(3):
        use(table, backend)
    before = held()
    for _ in range(CYCLES[backend]):
        use(table, backend)
    assert_nothing_is_left(before)


@pytest.mark.kernel("uffd_wp_async")
def test_a_thousand_track_and_close_cycles_leave_nothing(table: np.ndarray[Any, Any]) -> None:
    use(table, "uffd-wp")
    before = held()
    for _ in range(1000):
        ww.track(table, backend="uffd-wp").close()
    assert_nothing_is_left(before)


def test_many_trackers_at_once_share_what_they_hold(backend: str, table: np.ndarray[Any, Any]) -> None:
    use(table, backend)
    before = held()
    first = ww.track(table, backend=backend)
    alone = held()
    others = [ww.track(table[n:], backend=backend) for n in range(20)]
    shared = held()
    # Each tracker may keep one descriptor to look for pinned memory.
    assert len(shared.descriptors) - len(alone.descriptors) <= len(others)
    assert shared.children == alone.children
    for tracker in (first, *others):
        tracker.close()
    assert_nothing_is_left(before)


def test_many_consumers_leave_nothing(backend: str, table: np.ndarray[Any, Any]) -> None:
    with ww.track(table, backend=backend) as tracker:
        before = held()
        for n in range(CYCLES[backend]):
            tracker.consumer(f"number {n}").close()
        assert_nothing_is_left(before)


def test_a_dropped_tracker_is_closed(backend: str, table: np.ndarray[Any, Any]) -> None:
    use(table, backend)
    before = held()
    for _ in range(5):
        ww.track(table, backend=backend)
    assert_nothing_is_left(before)


def test_a_dropped_tracker_with_consumers_and_sets_in_hand_is_closed(
    backend: str, table: np.ndarray[Any, Any]
) -> None:
    use(table, backend)
    before = held()
    tracker = ww.track(table, backend=backend)
    tracker.consumer("backup")
    kept = [tracker.collect(), tracker.consumer("other").collect()]
    del tracker
    assert_nothing_is_left(before)
    kept[0].give_back()


def test_a_consumer_in_hand_keeps_its_tracker_open(backend: str, table: np.ndarray[Any, Any]) -> None:
    consumer = ww.track(table, backend=backend).consumer("backup")
    gc.collect()
    table[7] = 1
    assert 7 in consumer.collect().pages(table)


def test_a_dropped_tracker_lets_its_buffers_go() -> None:
    memory = bytearray(100)
    ww.track(memory, backend="every-page")
    gc.collect()
    memory.append(0)


# ---- construction that fails ---------------------------------------------------------------------


CALLS = {name for name in vars(LinuxCalls) if not name.startswith("_")}


class FailingCalls(LinuxCalls):
    """The running kernel, whose n-th call since ``fail_at(n)`` is refused."""

    remaining = -1

    def fail_at(self, n: int) -> None:
        self.remaining = n

    def __getattribute__(self, name: str) -> Any:
        call = super().__getattribute__(name)
        if name not in CALLS or name == "close":  # Linux closes a descriptor whatever close(2) says
            return call

        def counted(*arguments: Any) -> Any:
            self.remaining -= 1
            if self.remaining == -1:
                raise OSError(errno.ENOMEM, f"{name}: {os.strerror(errno.ENOMEM)}")
            return call(*arguments)

        return counted


def test_a_tracker_that_could_not_be_made_leaves_nothing(backend: str, table: np.ndarray[Any, Any]) -> None:
    calls: Any = FailingCalls()
    memory = bytearray(100_000)
    ww.track(table, memory, backend=backend, calls=calls).close()
    before = held()
    n_calls = 0
    while calls.remaining < 0:  # until there are fewer calls than the one that shall fail
        calls.fail_at(n_calls)
        with contextlib.suppress(OSError, ww.WriteWatchError):  # or it did without
            ww.track(table, memory, backend=backend, calls=calls).close()
        assert tuple(sorted(_targets())) == before.descriptors
        memory.append(0)
        n_calls += 1
    assert_nothing_is_left(before)
    if BACKENDS[backend][1]:
        assert n_calls > 5, "a backend that asks the kernel has calls that can fail"


@pytest.mark.parametrize("error", [ww.UnseenWritesWarning])
def test_a_warning_that_is_made_an_error_leaves_nothing(backend: str, error: type[Warning]) -> None:
    memory = SharedMemory(create=True, size=50_000)
    try:
        before = held()
        with warnings.catch_warnings():
            warnings.simplefilter("error", error)
            with pytest.raises(error):
                ww.track(memory, backend=backend)
        assert_nothing_is_left(before)
    finally:
        memory.close()  # refused while something exports the memory
        memory.unlink()


REFUSED: dict[str, Callable[[np.ndarray[Any, Any]], ww.Tracker]] = {
    "unknown backend": lambda table: ww.track(table, backend="fastest"),
    "read-only buffer": lambda table: ww.track(table, b"abc"),
    "pinned elsewhere": lambda table: ww.track(table[:5], pinned=[table[20:]]),
    "memory that is not there": lambda table: ww.track(
        table, ww.AddrRange(0x10000, 0x20000), backend="content-hash"
    ),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_tracker_leaves_nothing(
    call: Callable[[np.ndarray[Any, Any]], ww.Tracker], table: np.ndarray[Any, Any]
) -> None:
    before = held()
    with pytest.raises(ww.WriteWatchError):
        call(table)
    assert_nothing_is_left(before)


# ---- the low level -------------------------------------------------------------------------------


@pytest.mark.kernel("uffd_wp_async")
def test_a_thousand_userfaultfds_and_pagemaps_leave_nothing(table: np.ndarray[Any, Any]) -> None:
    before = held()
    for _ in range(1000):
        with ww.Userfaultfd() as uffd, ww.Pagemap() as pagemap:
            uffd.register(table.ctypes.data, table.nbytes, wp=True)
            pagemap.scan(table.ctypes.data, table.ctypes.data + table.nbytes)
    assert_nothing_is_left(before)


def test_probing_leaves_nothing() -> None:
    ww.capabilities(refresh=True)
    before = held()
    for _ in range(5):
        ww.capabilities(refresh=True)
    assert_nothing_is_left(before)


def test_allocated_memory_is_given_back_with_its_last_view(page_size: int) -> None:
    before = held()
    views = [ww.allocate((10, page_size), "u1")[n:] for n in range(10)]
    assert held().n_mappings > before.n_mappings or views[0].base is not None
    del views
    assert_nothing_is_left(before, arenas=0)
