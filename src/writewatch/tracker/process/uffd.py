"""Watching another process with a userfaultfd of its mm: register everything, then one walk tells and protects.

Rules, each for a reason:

* Never UFFDIO_WRITEPROTECT, and never a walk without PRESENT or SWAPPED: both fill holes with markers, and page
  tables for all of a sparse terabyte with them.
* The walk covers only mappings that this userfaultfd has just registered. A program that tracks itself has mappings
  that look the same to PAGEMAP_SCAN, and protecting those would steal what it wants to know. One that slips in
  between is found afterwards, and what was taken from it is given back.
* What a walk has found is kept before anything else is done, and until it was handed over. Where a walk broke off
  before its report was kept, all that holds data is assumed written at the next.

No step stops the target, and none needs ptrace. A program that registers memory of its own *after* we did is refused
(EBUSY): Linux allows a mapping one userfaultfd.

Truth: ``do_pagemap_scan()`` in ``fs/proc/task_mmu.c``; ``docs/design.md``.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.pagemap import (
    PAGE_IS_FILE,
    PAGE_IS_GUARD,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED,
    PAGE_IS_WPALLOWED,
    PAGE_IS_WRITTEN,
)
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_UNPOPULATED
from writewatch.errors import AttachError
from writewatch.kernel.bugs import HUGETLB_HOLE_DEADLOCK, running_release
from writewatch.kernel.maps import read_smaps
from writewatch.kernel.pagemap import PartialScanError
from writewatch.kernel.userfaultfd import Userfaultfd
from writewatch.pages import Runs, intersection, no_runs, normalise, union
from writewatch.tracker.process.accounting import Findings, Words, clipped, findings
from writewatch.tracker.process.backend import Sighting
from writewatch.tracker.process.layout import Layout
from writewatch.tracker.process.procfiles import MmGoneError, ProcFiles
from writewatch.tracker.process.registration import NOT_OF_THE_KIND, Registered, Registration, why_refused

_FEATURES: Final = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED
_THERE: Final = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
_RETURNED: Final = PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_PFNZERO | PAGE_IS_HUGE
#: A mapping of anonymous or shared memory this large is walked by itself: there Linux need not look up for every page
#: whether it belongs to a file.
_LARGE_BYTES: Final = 8 << 20

_HANGS: Final = "hugetlb memory: this kernel may hang when it is scanned, so it is not tracked"


class _Part(NamedTuple):
    """The report of one scan: where it looked, and the regions that it found."""

    start: int
    end: int
    words: Words


@dataclass(frozen=True)
class _Kept:
    """What must change together: replaced by one assignment, so that no exception leaves half of it."""

    held: Runs = field(default_factory=no_runs)
    sighting: Sighting = field(default_factory=lambda: Sighting(Layout(b"", (), 4096)))


class UffdProcess:
    """Asynchronous write-protection of another process.

    Args:
        fd: A userfaultfd of the target, no handshake done; owned from now on, also when this raises.
        files: Of the target; borrowed.
        calls: What to ask.

    Raises:
        OSError: EINVAL, the kernel lacks WP_ASYNC.
    """

    name = "uffd-wp"

    def __init__(self, fd: int, files: ProcFiles, calls: KernelCalls) -> None:
        self._calls = calls
        self._files = files
        self._uffd = Userfaultfd.from_fd(fd, _FEATURES, fresh=True, calls=calls)
        self._registration = Registration(self._uffd, files)
        self._layout = Layout(b"", (), calls.page_size)
        self._kept = _Kept(sighting=Sighting(self._layout))
        self._parts: list[_Part] = []  # of the round under way, or of one that was interrupted
        self._fresh = no_runs()
        self._doubted = no_runs()
        self._walking: tuple[int, int] | None = None  # being scanned, report not kept yet
        self._notes: list[str] = []
        self._avoid_hugetlb = HUGETLB_HOLE_DEADLOCK.affects(running_release())
        self._returned = _RETURNED | self._guard_category()

    # ---- the face --------------------------------------------------------------------------------

    @property
    def sighting(self) -> Sighting:
        """What waits to be accepted."""
        return self._kept.sighting

    def accept(self) -> None:
        """Forget what was delivered."""
        self._kept = replace(self._kept, sighting=Sighting(self._layout))

    def start(self, *, report: bool) -> None:
        """The first look: protects everything; what is there already is reported as assumed, or not at all.

        Raises:
            AttachError: Another watcher has registered the memory.
        """
        self._layout = self._read_layout()
        if self._registration.is_taken(self._layout):
            raise AttachError(_already_tracked(self._uffd.fileno()), self._files.pid)
        self.look()
        before = self.sighting
        self.accept()
        if report:
            present = union(before.written, before.assumed)
            self._kept = replace(self._kept, sighting=replace(before, written=no_runs(), assumed=present))

    def look(self) -> None:
        """Register what is new, walk, keep what was found."""
        began = time.perf_counter_ns()
        self._settle_interrupted()
        layout = self._layout = self._read_layout()
        self._fresh = self._unregistered(layout)
        registered = self._registration.renew(layout)
        at_ns = time.monotonic_ns()
        try:
            self._walk(registered.groups)
            self._give_back(registered.groups)
        finally:
            self._settle(registered, at_ns, time.perf_counter_ns() - began)

    def close(self) -> None:
        """Unregister everything, then close: another process may hold a copy of the descriptor."""
        if self._uffd.closed:
            return
        with contextlib.suppress(MmGoneError, OSError), contextlib.ExitStack() as stack:
            stack.callback(self._uffd.close)
            self._registration.end(self._read_layout())

    # ---- one round -------------------------------------------------------------------------------

    def _read_layout(self) -> Layout:
        text = self._files.read_maps()
        if text == self._layout.text:
            return self._layout
        excluded = self._hugetlb_starts() if self._avoid_hugetlb else frozenset[int]()
        return Layout.of(text, self._calls.page_size, excluded)

    def _hugetlb_starts(self) -> frozenset[int]:
        """On kernels that would hang: hugetlb mappings. ``smaps`` alone tells them, and costs milliseconds."""
        with contextlib.suppress(OSError):
            entries = read_smaps(self._files.view)
            return frozenset(
                entry.vma.start for entry in entries if entry.kernel_page_size > self._calls.page_size
            )
        return frozenset()

    def _unregistered(self, layout: Layout) -> Runs:
        """Pages present in mappings that are not registered now: new ones, moved ones, and lost ones."""
        if not len(self._kept.held):
            return no_runs()  # the first round: nothing is registered yet
        ranges = [(group[0].start, group[-1].end) for group in self._registration.groups_to_try(layout)]
        words = [np.empty((0, 3), np.uint64)]
        words += [self._unregistered_within(start, end) for start, end in ranges]
        shift = self._calls.page_size.bit_length() - 1
        return normalise(np.concatenate(words)[:, :2].view(np.int64) >> shift)

    def _unregistered_within(self, start: int, end: int) -> Words:
        bit = PAGE_IS_WPALLOWED
        try:
            regions = self._files.pagemap.scan(start, end, mask=bit, inverted=bit, anyof=_THERE, returned=0)
        except PartialScanError as error:
            if error.errno == errno.ESRCH:
                raise MmGoneError from error
            raise
        return regions.view(np.uint64).reshape(-1, 3)

    def _walk(self, groups: Sequence[Sequence[Vma]]) -> None:
        for group in groups:
            for start, end, has_files in _pieces(group):
                try:
                    self._scan(start, end, has_files)
                except PartialScanError as error:
                    if error.errno == errno.ESRCH:
                        raise MmGoneError from error
                    self._note_failure(start, end, error)

    def _scan(self, start: int, end: int, has_files: bool) -> None:
        """One scan that protects; its report is kept whatever happens, or the range is marked as in doubt."""
        self._walking = start, end
        try:
            regions = self._files.pagemap.scan(
                start,
                end,
                mask=PAGE_IS_WPALLOWED,
                anyof=_THERE,
                returned=self._returned | PAGE_IS_FILE * has_files,
                write_protect=True,
            )
        except PartialScanError as error:
            words = error.regions.view(np.uint64).reshape(-1, 3)
            reached = int(words[-1, 1]) if len(words) else start
            self._parts.append(_Part(start, reached, words))
            self._walking = None
            raise
        self._parts.append(_Part(start, end, regions.view(np.uint64).reshape(-1, 3)))
        self._walking = None

    def _note_failure(self, start: int, end: int, error: PartialScanError) -> None:
        reached = self._parts[-1].end
        self._doubt(reached, end)
        self._notes.append(
            f"[{reached:#x}, {end:#x}) could not be scanned ({error.strerror}); all that held data there is "
            "reported as assumed"
        )

    def _doubt(self, start: int, end: int) -> None:
        size = self._calls.page_size
        self._doubted = union(self._doubted, np.array([[start // size, end // size]], np.int64))

    def _give_back(self, groups: Sequence[Sequence[Vma]]) -> None:
        """Mark as written again what was protected in a mapping that somebody else registered in between."""
        for vma in self._registration.foreign_within(groups):
            for at, part in enumerate(self._parts):
                taken = clipped(part.words, vma.start, vma.end)
                for start, end, categories in taken.tolist():
                    if categories & PAGE_IS_WRITTEN:
                        self._forge_written(start, end)
                if len(taken):
                    before, behind = (
                        clipped(part.words, 0, vma.start),
                        clipped(part.words, vma.end, part.end),
                    )
                    self._parts[at] = part._replace(words=np.concatenate((before, behind)))

    def _forge_written(self, start: int, end: int) -> None:
        # Linux asks nobody whose registration it is. ENOENT: unmapped or unregistered by now, nothing to give back.
        with contextlib.suppress(OSError):
            self._uffd.write_protect(start, end - start, protect=False, forge_written=True)

    # ---- keeping ---------------------------------------------------------------------------------

    def _settle_interrupted(self) -> None:
        """Account for a round that an exception ended before it was accounted for."""
        if self._parts:
            self._keep(self._findings(), self._kept.sighting)
        if self._walking is not None:
            walking, self._walking = self._walking, None
            self._doubt(*walking)

    def _settle(self, registered: Registered, at_ns: int, scan_ns: int) -> None:
        untracked = {vma: why_refused(number) for vma, number in registered.refused.items()}
        untracked |= self._left_alone()
        sighting = replace(
            self.sighting,
            layout=self._layout,
            untracked=untracked,
            at_ns=at_ns,
            scan_ns=self.sighting.scan_ns + scan_ns,
        )
        self._keep(self._findings(), sighting)

    def _left_alone(self) -> dict[Vma, str]:
        """Mappings that were not even tried."""
        return {
            vma: _HANGS if vma.start in self._layout.excluded else NOT_OF_THE_KIND
            for vma in self._layout.left_out
        }

    def _findings(self) -> Findings:
        size = self._calls.page_size
        parts = sorted(self._parts, key=lambda part: part.start)
        scanned = np.array([(part.start // size, part.end // size) for part in parts], np.int64)
        return findings(
            np.concatenate([np.empty((0, 3), np.uint64), *(part.words for part in parts)]),
            self._layout,
            size,
            held=self._kept.held,
            scanned=normalise(scanned.reshape(-1, 2)),
            fresh=self._fresh,
            doubted=self._doubted,
        )

    def _keep(self, found: Findings, sighting: Sighting) -> None:
        doubted = intersection(self._doubted, self._kept.held)
        written = union(sighting.written, found.written)
        self._kept = _Kept(
            found.held,
            replace(
                sighting,
                written=written,
                assumed=union(union(sighting.assumed, found.assumed), doubted),
                discarded=union(sighting.discarded, found.discarded),
                exact=sighting.exact and found.exact,
                notes=(*sighting.notes, *self._notes),
                n_faults=sighting.n_faults + found.n_faults,
            ),
        )
        # Were an exception to come here, the same would be kept twice: more is reported then, never less.
        self._parts, self._notes, self._doubted = [], [], no_runs()

    def _guard_category(self) -> int:
        """GUARD where the kernel knows it (since v6.16); asking otherwise is EINVAL."""
        try:
            self._files.pagemap.scan(0, 0, returned=PAGE_IS_GUARD)
        except PartialScanError as error:
            if error.errno == errno.EINVAL:
                return 0
            raise
        return PAGE_IS_GUARD


def _already_tracked(fd: int) -> str:
    # On use: it is read by those alone who are refused.
    from writewatch.kernel.ptrace.holders import already_tracked

    return already_tracked(fd)


def _pieces(group: Sequence[Vma]) -> Iterator[tuple[int, int, bool]]:
    """Ranges to scan one by one: start, end, and whether the pages of files must be told from others."""
    start, end, has_files = group[0].start, group[0].start, False
    for vma in group:
        is_large = vma.end - vma.start >= _LARGE_BYTES and (vma.is_shared or not vma.is_file)
        if is_large:
            if start < end:
                yield start, end, has_files
            yield vma.start, vma.end, False
            start, has_files = vma.end, False
        else:
            has_files |= vma.is_file and not vma.is_shared
        end = vma.end
    if start < end:
        yield start, end, has_files
