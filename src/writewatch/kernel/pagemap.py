"""``Pagemap``: entries and PAGEMAP_SCAN of one process, over any ``KernelCalls``.

The scan is one ioctl with many traps; this module is the one disciplined way around them:

* The kernel collects at most 512 regions, then restarts its walk, and ``walk_end`` may keep the restart point. So a
  request that reported more is not believed to have ended early: the next one begins after the last region
  reported, which is where the truth is known up to. The vec holds 4,096 regions: one request mostly does.
* A request that fails half-way has already protected the pages before the failure. The kernel has copied
  their regions out but does not say how many; the vec is zero before every request, so that they can be
  counted, and the error carries them (``PartialScanError``).
* The vec is a mapping of its own, touched beforehand: it never lies on a tracked page, and the copy
  to it cannot fault after pages were protected.

Truth: ``do_pagemap_scan()`` in ``fs/proc/task_mmu.c``; PAGEMAP_SCAN(2const).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls
from writewatch.abi.pagemap import (
    PAGE_IS_WRITTEN,
    PAGE_REGION,
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_INTERNAL_REGIONS,
    PM_SCAN_WP_MATCHING,
    PmScanArg,
)
from writewatch.errors import UsageError, remade
from writewatch.kernel.default import default_calls
from writewatch.kernel.owning import Uncopied, not_ours
from writewatch.kernel.ranges import checked_number
from writewatch.kernel.written import WrittenPages
from writewatch.pages import AddrRange

_ARG_BYTES: Final = ctypes.sizeof(PmScanArg)
_REGION_BYTES: Final = PAGE_REGION.itemsize
#: Room in the vec of a ``Pagemap``: 96 KiB.
_VEC_REGIONS: Final = 4096


class ScanOptions(TypedDict, total=False):
    """Keyword arguments of ``Pagemap.scan``."""

    mask: int
    anyof: int
    inverted: int
    returned: int
    write_protect: bool
    check_wp_async: bool
    max_pages: int


class PartialScanError(OSError):
    """A scan failed after it had reported, and perhaps protected, a part.

    Attributes:
        regions: (n,) ``PAGE_REGION``: what was found before the failure. With ``write_protect`` those pages
            are protected again, so this report is the only one they will have.
        at: The request that failed began here, in bytes.
    """

    def __init__(self, cause: OSError, regions: NDArray[np.void], at: int) -> None:
        super().__init__(cause.errno, f"{cause.strerror} (at {at:#x}, {len(regions)} regions before)")
        self.regions = regions
        self.at = at

    def __reduce__(self) -> tuple[Any, ...]:
        return remade, (type(self), self.args, self.__dict__)


def touched_vec(n_regions: int) -> NDArray[np.void]:
    """(n_regions,) zeroed ``PAGE_REGION`` array on whole pages that nothing else shares.

    The pages are written once here, so that the kernel's copy to them needs no allocation.
    """
    length = n_regions * PAGE_REGION.itemsize
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    vec: NDArray[np.void] = np.frombuffer(memory, PAGE_REGION, n_regions)
    vec["end"] = 0
    return vec


class Pagemap(Uncopied):
    """An open ``/proc/PID/pagemap``.

    Bound to the mm that the process had when it was opened: after exit or exec, entries are empty and a
    scan answers ESRCH; in a forked child it still shows the parent. Reading needs ptrace-read access when
    opened, nothing afterwards. Threads may share one object; a signal handler needs one of its own.

    Args:
        pid: Whose; None means this process.
        calls: What to ask, by default the running kernel.

    Raises:
        OSError: EACCES or EPERM without the right to trace the process, ENOENT without such a process.
    """

    def __init__(self, pid: int | None = None, *, calls: KernelCalls | None = None) -> None:
        self._calls = default_calls() if calls is None else calls
        self._be_free()
        self._vec = touched_vec(_VEC_REGIONS)
        # The same memory as plain words: NumPy copies records one by one, ten times slower.
        self._words = self._vec.view(np.uint64).reshape(-1, 3)
        self._address = self._vec.ctypes.data
        self._n_stale = 0  # regions in the vec that an earlier request left there
        self._shift = self._calls.page_size.bit_length() - 1
        # The request of written_runs: filled in, under the lock, rather than made anew.
        self._tracking = PmScanArg(
            size=_ARG_BYTES, category_mask=PAGE_IS_WRITTEN, return_mask=PAGE_IS_WRITTEN
        )
        self._mark = int.from_bytes(os.urandom(6))
        self._fd = self._calls.open_pagemap(pid)
        try:
            self._calls.lseek(self._fd, self._mark, os.SEEK_SET)
        except BaseException:
            self._close()
            raise
        _living.add(self)

    def _be_free(self) -> None:
        # Lets its holder in again: a signal handler, which would wait for ever for what it has interrupted.
        self._lock = threading.RLock()
        self._is_busy = False  # only looked at with the lock

    def fileno(self) -> int:
        """The descriptor; UsageError when closed."""
        if self._fd < 0:
            raise UsageError("this Pagemap is closed; open a new one")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._fd < 0

    @property
    def is_ours(self) -> bool:
        """Whether the descriptor is open and still of the file that was opened here."""
        try:
            return self._calls.lseek(self._fd, 0, os.SEEK_CUR) == self._mark
        except OSError as error:  # ESPIPE: a pipe or a socket has no position
            return error.errno not in {errno.EBADF, errno.ESPIPE}

    def close(self) -> None:
        """Close the descriptor, unless it is another file by now. A second call does nothing."""
        if self.is_ours:
            self._close()
        self._fd = -1  # whatever else it is now, somebody else closes it

    def _close(self) -> None:
        # Looked up first: once the number is forgotten, no signal handler may run before it is closed.
        close = self._calls.close
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Not a leak that needs a warning: the object owns nothing but this descriptor.
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return "<Pagemap closed>" if self.closed else f"<Pagemap fd={self._fd}>"

    def own_fileno(self) -> int:
        """The descriptor; OSError (EBADF) when the program closed it, and its number is perhaps another file's."""
        if not self.is_ours:
            raise not_ours(self.fileno())
        return self._fd

    # ---- entries ---------------------------------------------------------------------------------

    def entries(self, start: int, end: int) -> NDArray[np.uint64]:
        """The entries of a range.

        Args:
            start: Rounded down to a page.
            end: Rounded up to a page.

        Returns:
            (n_pages,) uint64, bits as in ``abi/pagemap.py``; unmapped pages are 0. Shorter past the end of
            user space, and empty when the mm is gone.
        """
        page_size = self._calls.page_size
        start, end = checked_number("start", start), checked_number("end", end)
        if end < start:
            raise UsageError(
                f"entries of [{start:#x}, {end:#x}): the range ends before it starts; swap the ends"
            )
        first = start // page_size
        return self._calls.read_pagemap(self.own_fileno(), first, -(-end // page_size) - first)

    # ---- scan ------------------------------------------------------------------------------------

    def scan(
        self,
        start: int,
        end: int,
        *,
        mask: int = 0,
        anyof: int = 0,
        inverted: int = 0,
        returned: int = PAGE_IS_WRITTEN,
        write_protect: bool = False,
        check_wp_async: bool = False,
        max_pages: int = 0,
    ) -> NDArray[np.void]:
        """All page regions of a range that match.

        With ``x = categories ^ inverted`` a page matches when ``x`` has every bit of ``mask`` and, if ``anyof`` is
        not 0, at least one bit of it. Without masks every page of every VMA matches; holes never do.

        Args:
            start: Page-aligned, in bytes.
            end: In bytes; the kernel rounds it up to a page.
            mask: ``PAGE_IS_*`` bits that must all be set.
            anyof: ``PAGE_IS_*`` bits of which one must be set.
            inverted: Bits that count as set when they are clear.
            returned: Bits shown in ``categories``; neighbours are one region when these are equal.
            write_protect: Protect the matching written pages in the same walk. No write is lost between
                report and protection: the kernel does both under the page-table lock. Only VMAs
                registered for asynchronous write-protection; others are passed over.
            check_wp_async: Refuse (EPERM) a range that has a VMA not registered so.
            max_pages: Stop after so many pages; 0 for no limit. With ``write_protect`` on hugetlb memory
                it must be a multiple of the huge page: Linux passes over a huge page that does not fit.

        Returns:
            (n,) ``PAGE_REGION``, ascending and disjoint; a fresh array, yours.

        Raises:
            PartialScanError: The kernel refused on the way; ``.regions`` has the report so far.
                EINVAL is a category that this kernel does not know, EFAULT a range beyond user space,
                ESRCH a process that is gone.
            UsageError: The range is unaligned or ends before it starts, or a number does not fit in 64 bits.
        """
        argument = self._argument(
            start,
            end,
            mask=mask,
            anyof=anyof,
            inverted=inverted,
            returned=returned,
            write_protect=write_protect,
            check_wp_async=check_wp_async,
            max_pages=max_pages,
        )
        return self._words_of(argument).view(PAGE_REGION).reshape(-1)

    def written(self, first: int, last: int, *, protect: bool = False, max_pages: int = 0) -> WrittenPages:
        """The one request that dirty tracking makes, in page numbers.

        Mask and returned categories are WRITTEN and nothing else, with ``check_wp_async``: kernels before the fixes of
        2026 pass over dropped pages in any other request.

        Args:
            first: Page number.
            last: Page number after the last. Neither lies inside a page of hugetlb.
            protect: Protect again what is reported.
            max_pages: Stop after so many; 0 for no limit.

        Raises:
            PartialScanError: EPERM, part of the range is not registered for asynchronous write-protection.
        """
        return self.written_of(((first, last),), protect=protect, max_pages=max_pages)

    def written_of(
        self, runs: Iterable[tuple[int, int] | list[int]], *, protect: bool = False, max_pages: int = 0
    ) -> WrittenPages:
        """``written`` of several page runs, ascending, a request each: a scan over a gap would fail in it.

        Raises:
            PartialScanError: Of one run; ``regions`` has the report of those before as well, and ``at`` lies in the
                run that failed. Those after it were not asked for.
        """
        argument = self._tracking
        parts: list[bytes] = []
        with self._lock:
            self._refuse_handler()
            self._is_busy = True
            try:
                argument.flags = PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING * protect
                for first, last in runs:
                    argument.start, argument.end = first << self._shift, last << self._shift
                    argument.max_pages = max_pages
                    self._collect_regions(argument, parts)
            except PartialScanError as error:
                error.regions = np.frombuffer(b"".join([*parts, error.regions.tobytes()]), PAGE_REGION)
                raise
            finally:
                self._is_busy = False
        return WrittenPages(parts or [b""], self._shift)

    def _collect_regions(self, argument: PmScanArg, parts: list[bytes]) -> None:
        """Add what the vec holds after each request to the parts, until nothing is left of the range."""
        while True:
            count = self._ask(argument)
            if count:
                parts.append(ctypes.string_at(self._address, count * _REGION_BYTES))
            # The range cuts no huge page: a walk that had room for more, and no limit, has reached the end.
            if count < _VEC_REGIONS and not argument.max_pages:
                return
            if self._advance(argument, self._words[:count]):
                return

    def iter_scan(
        self,
        start: int,
        end: int,
        *,
        mask: int = 0,
        anyof: int = 0,
        inverted: int = 0,
        returned: int = PAGE_IS_WRITTEN,
        write_protect: bool = False,
        check_wp_async: bool = False,
        max_pages: int = 0,
    ) -> Iterator[NDArray[np.void]]:
        """``scan``, a request at a time: arrays of at most 4,096 regions, for ranges of any size.

        Between two items the target runs on and the mmap lock is free. With ``write_protect``, leaving the loop
        early leaves the rest of the range as it was.
        """
        argument = self._argument(
            start,
            end,
            mask=mask,
            anyof=anyof,
            inverted=inverted,
            returned=returned,
            write_protect=write_protect,
            check_wp_async=check_wp_async,
            max_pages=max_pages,
        )
        return self._one_by_one(argument)

    def _one_by_one(self, argument: PmScanArg) -> Iterator[NDArray[np.void]]:
        is_complete = False
        while not is_complete:
            words = self._request(argument)
            if len(words):
                # Before what comes next is worked out, which may raise: these pages are protected already.
                yield words.view(PAGE_REGION).reshape(-1)
            is_complete = self._advance(argument, words)

    def _argument(self, start: int, end: int, **options: Unpack[ScanOptions]) -> PmScanArg:
        start, end = checked_number("start", start), checked_number("end", end)
        if start % self._calls.page_size or end < start:
            raise UsageError(
                f"scan [{start:#x}, {end:#x}): start must be a multiple of the page size "
                f"{self._calls.page_size} and not lie after end"
            )
        return PmScanArg(
            size=_ARG_BYTES,
            flags=PM_SCAN_WP_MATCHING * bool(options["write_protect"])
            | PM_SCAN_CHECK_WPASYNC * bool(options["check_wp_async"]),
            start=start,
            end=end,
            max_pages=checked_number("max_pages", options["max_pages"]),
            category_inverted=checked_number("inverted", options["inverted"]),
            category_mask=checked_number("mask", options["mask"]),
            category_anyof_mask=checked_number("anyof", options["anyof"]),
            return_mask=checked_number("returned", options["returned"]),
        )

    def _words_of(self, argument: PmScanArg) -> NDArray[np.uint64]:
        """(n, 3) words of all regions, request after request."""
        parts: list[NDArray[np.uint64]] = []
        is_complete = False
        try:
            while not is_complete:
                parts.append(self._request(argument))
                is_complete = self._advance(argument, parts[-1])
        except PartialScanError as error:
            found = np.concatenate([*parts, error.regions.view(np.uint64).reshape(-1, 3)])
            error.regions = found.view(PAGE_REGION).reshape(-1)
            raise
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _request(self, argument: PmScanArg) -> NDArray[np.uint64]:
        """One ioctl: (n, 3) words of its regions."""
        with self._lock:
            self._refuse_handler()
            self._is_busy = True
            try:
                return self._take(self._ask(argument))
            finally:
                self._is_busy = False

    def _refuse_handler(self) -> None:
        """The vec and the argument are in use. The caller holds the lock."""
        if self._is_busy:
            raise UsageError(
                "a signal handler used a Pagemap while the same thread was using it; set a flag in the handler and "
                "scan outside it, or give it a Pagemap of its own"
            )

    def _ask(self, argument: PmScanArg) -> int:
        """The ioctl: how many regions are in the vec now. The caller holds the lock."""
        # Zeroed here and not after use: a scan that protects has the TLB flushed, and what runs next pays for it.
        if self._n_stale:
            ctypes.memset(self._address, 0, self._n_stale * _REGION_BYTES)
        fd = self.own_fileno()
        self._n_stale = _VEC_REGIONS
        try:
            self._n_stale = count = self._calls.pagemap_scan(fd, argument, self._vec)
            return count
        except BaseException as error:
            reported = self._take(int(np.count_nonzero(self._words[:, 1])))
            if isinstance(error, OSError) and error.errno is not None:
                raise PartialScanError(
                    error, reported.view(PAGE_REGION).reshape(-1), argument.start
                ) from error
            raise  # of a signal handler, whose TimeoutError is an OSError as well

    def _take(self, count: int) -> NDArray[np.uint64]:
        """A copy of the first regions of the vec, as words: NumPy copies records one by one."""
        return self._words[:count].copy()

    def _advance(self, argument: PmScanArg, words: NDArray[np.uint64]) -> bool:
        """Whether nothing is left; otherwise the argument is set to go on behind what is known."""
        if argument.max_pages:
            argument.max_pages -= int((words[:, 1] - words[:, 0]).sum()) // self._calls.page_size
            if not argument.max_pages:
                return True
        if argument.walk_end >= argument.end:
            return True
        if len(words) <= PM_SCAN_INTERNAL_REGIONS:
            # Neither limit was reached, yet the walk ended early: Linux does that at a hugetlb page which the range
            # cuts, and never goes beyond it. Compare fs/proc/task_mmu.c:pagemap_scan_hugetlb_entry().
            cut = OSError(
                errno.EINVAL, "PAGEMAP_SCAN: the range cuts a huge page; align it to the huge page size"
            )
            raise PartialScanError(cut, np.empty(0, PAGE_REGION), argument.walk_end)
        argument.start = max(argument.walk_end, int(words[-1, 1]))
        return bool(argument.start >= argument.end)

    def scan_ranges(
        self, ranges: Iterable[AddrRange], **options: Unpack[ScanOptions]
    ) -> Iterator[tuple[AddrRange, NDArray[np.void]]]:
        """``scan`` of one range after the other, each report handed over before the next range is asked.

        So a range that fails takes no other range's report with it.
        """
        for span in ranges:
            yield span, self.scan(span.start, span.end, **options)


_living: Final[weakref.WeakSet[Pagemap]] = weakref.WeakSet()


def _free_all() -> None:
    """In a forked child: the thread that was scanning is not there to let anybody in."""
    for pagemap in list(_living):
        pagemap._be_free()


os.register_at_fork(after_in_child=_free_all)
