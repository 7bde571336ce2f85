"""``Pagemap`` on the running kernel: the descriptor, and the entries."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import writewatch as ww
from writewatch.abi import pagemap as pm
from writewatch.abi.calls import KernelCalls
from writewatch.kernel.calls import LinuxCalls

scanning = pytest.mark.kernel("pagemap_scan")
entries_shown = pytest.mark.kernel("pagemap")


@pytest.fixture
def pagemap() -> Iterator[ww.Pagemap]:
    with ww.Pagemap() as opened:
        yield opened


# ---- owning the descriptor -----------------------------------------------------------------------


@entries_shown
def test_closing_is_final_and_may_be_repeated(descriptors: Callable[[], frozenset[str]]) -> None:
    before = descriptors()
    with ww.Pagemap() as opened:
        assert str(opened.fileno()) in descriptors() - before
        assert repr(opened) == f"<Pagemap fd={opened.fileno()}>"
    opened.close()
    assert opened.closed
    assert repr(opened) == "<Pagemap closed>"
    assert descriptors() == before
    with pytest.raises(ww.UsageError, match="closed"):
        opened.fileno()


@entries_shown
def test_a_forgotten_pagemap_closes_its_descriptor(descriptors: Callable[[], frozenset[str]]) -> None:
    before = descriptors()
    ww.Pagemap()
    gc.collect()
    assert descriptors() == before


@entries_shown
def test_a_process_that_does_not_exist_has_no_pagemap(descriptors: Callable[[], frozenset[str]]) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        ww.Pagemap(2**22 + 1)  # above the largest pid_max
    assert descriptors() == before


# ---- entries -------------------------------------------------------------------------------------


@entries_shown
def test_entries_are_one_for_each_page_that_the_range_touches(
    pagemap: ww.Pagemap, calls: KernelCalls, memory: Callable[..., int], page: int
) -> None:
    start = memory(8)
    calls.store(start + 2 * page, b"\1")
    calls.store(start + 3 * page, b"\1")
    entries = pagemap.entries(start, start + 8 * page)
    assert entries.dtype == np.uint64
    present = entries & np.uint64(pm.PM_PRESENT) != 0
    assert np.flatnonzero(present).tolist() == [2, 3]
    assert len(pagemap.entries(start + 1, start + page)) == 1
    assert len(pagemap.entries(start + page - 1, start + page + 1)) == 2
    assert len(pagemap.entries(start, start)) == 0


@entries_shown
def test_entries_of_unmapped_pages_are_0(
    pagemap: ww.Pagemap, calls: KernelCalls, memory: Callable[..., int], page: int
) -> None:
    start = memory(4)
    calls.store(start, bytes(4 * page))
    calls.munmap(start + page, 2 * page)
    assert (pagemap.entries(start, start + 4 * page) != 0).tolist() == [True, False, False, True]


@entries_shown
def test_entries_end_with_user_space(pagemap: ww.Pagemap, page: int) -> None:
    assert len(pagemap.entries(1 << 62, (1 << 62) + 4 * page)) == 0


@entries_shown
def test_entries_of_numpy_addresses_are_those_of_the_same_range(
    pagemap: ww.Pagemap, memory: Callable[..., int], calls: KernelCalls, page: int
) -> None:
    start = memory(2)
    calls.store(start, b"x")
    seen = pagemap.entries(np.uint64(start), np.uint64(start + 2 * page))  # type: ignore[arg-type]
    assert (seen & np.uint64(pm.PM_PRESENT) != 0).tolist() == [True, False]


@entries_shown
def test_entries_of_a_process_that_ended_are_empty(page: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with ww.Pagemap(child.pid) as opened:
        child.communicate(b"\n")
        assert len(opened.entries(page, 5 * page)) == 0


@scanning
def test_a_scan_of_a_process_that_ended_is_esrch(page: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with ww.Pagemap(child.pid) as opened:
        child.communicate(b"\n")
        with pytest.raises(ww.PartialScanError) as caught:
            opened.scan(page, 5 * page)
    assert caught.value.errno == errno.ESRCH
    assert len(caught.value.regions) == 0


@scanning
def test_another_process_is_scanned_through_its_own_pagemap(page: int) -> None:
    program = (
        "import mmap, ctypes, numpy as np\n"
        "m = mmap.mmap(-1, 16 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "m[5 * mmap.PAGESIZE] = 1\n"
        "print(np.frombuffer(m, 'u1').ctypes.data, flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    start = int(child.stdout.readline())
    with ww.Pagemap(child.pid) as opened:
        regions = opened.scan(start, start + 16 * page, mask=pm.PAGE_IS_PRESENT, returned=pm.PAGE_IS_PRESENT)
    child.communicate(b"\n")
    assert regions.tolist() == [(start + 5 * page, start + 6 * page, pm.PAGE_IS_PRESENT)]


class InterruptedCalls(LinuxCalls):
    """A signal handler runs within each scan."""

    handler: Callable[[], object] | None = None

    def pagemap_scan(self, fd: int, argument: pm.PmScanArg, vec: NDArray[np.void] | None) -> int:
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        return super().pagemap_scan(fd, argument, vec)


@scanning
def test_a_signal_handler_that_scans_is_refused_and_the_scan_that_it_interrupts_goes_on(page: int) -> None:
    table = ww.allocate((4, page), "u1")
    table[1] = 1
    start, first = table.ctypes.data, table.ctypes.data // page
    calls = InterruptedCalls()
    refused = 0
    with ww.Pagemap(calls=calls) as pagemap:

        def handler() -> None:
            nonlocal refused
            for scan in (
                lambda: pagemap.scan(start, start + page),
                lambda: next(pagemap.iter_scan(start, start + page)),
                lambda: pagemap.written(first, first + 1),
            ):
                with pytest.raises(ww.UsageError, match="signal handler"):
                    scan()
                refused += 1

        calls.handler = handler
        found = pagemap.scan(start, start + 4 * page, mask=pm.PAGE_IS_PRESENT, returned=0)
        assert found["start"].tolist() == [start + page]
        assert refused == 3
        again = pagemap.scan(start, start + 4 * page, mask=pm.PAGE_IS_PRESENT, returned=0)
        assert again.tolist() == found.tolist()


@scanning
def test_a_child_that_is_forked_during_a_scan_of_another_thread_can_scan(page: int) -> None:
    """The thread that holds the lock is not in the child, and would never give it back."""
    calls = InterruptedCalls()
    inside, forked = threading.Event(), threading.Event()

    def handler() -> None:
        inside.set()
        assert forked.wait(10)

    with ww.Pagemap(calls=calls) as pagemap:
        calls.handler = handler
        other = threading.Thread(target=pagemap.scan, args=(page, page))
        other.start()
        assert inside.wait(10)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # since Python 3.12, of a process with threads
            child = os.fork()
        if not child:
            signal.alarm(10)
            os._exit(len(pagemap.scan(page, page)))
        forked.set()
        other.join()
        assert os.waitpid(child, 0)[1] == 0
