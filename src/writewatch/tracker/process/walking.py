"""The scans of one round: which requests are made where, and their reports, kept from the moment they exist.

Linux is asked only what it can answer cheaply (1 GiB of populated pages that are clean, on one 3 GHz core):

* Which pages were written: 0.5 ms. A page that is clean is passed over before it is reported.
* Which pages are there at all: 3 ms, since each is put into a region. So in large mappings it is not asked; what
  left is found among the empty entries, which count as written: 0.5 ms.
* Which pages are a file's: 20 ms, since each has its folio looked up. So in large private mappings of files it is
  asked of those pages alone that are not protected, or that held data of the process's own the last time.

Small mappings are walked once, with all categories: one system call then costs more than the walk.

Where reports of an earlier round were lost, everything is asked: what was protected then shows in no other way.

Truth: ``pagemap_scan_pmd_entry()`` in ``fs/proc/task_mmu.c``.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

import numpy as np

from writewatch.abi.calls import Vma
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
from writewatch.kernel.pagemap import Pagemap, PartialScanError
from writewatch.pages import Runs, clip, no_runs, normalise
from writewatch.tracker.process.accounting import Words
from writewatch.tracker.process.procfiles import MmGoneError

#: A page is there when it has one of these.
THERE: Final = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
_RETURNED: Final = PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_PFNZERO | PAGE_IS_HUGE
#: From this size on mappings of one sort are walked by themselves.
_LARGE_BYTES: Final = 4 << 20
#: Ranges nearer than this are scanned as one, and more of them as all that lies between.
_NEAR_PAGES: Final = 64
_MOST_RANGES: Final = 64


class Manner(Enum):
    """How a piece of memory is scanned."""

    WHOLE = "every page, with all categories"
    CHANGES = "what was written, and what is empty"
    FILE = "what is not protected, and what held data"


class Piece(NamedTuple):
    """A range in bytes that one manner fits, and whether private mappings of files are in it."""

    start: int
    end: int
    manner: Manner
    has_files: bool


@dataclass(frozen=True, slots=True)
class Part:
    """The report of one scan.

    Attributes:
        start, end: Where it looked, in bytes.
        words: The regions that it found.
        is_whole: Whether what it did not report is not there. Otherwise that is as it was before.
    """

    start: int
    end: int
    words: Words
    is_whole: bool


@dataclass
class Walk:
    """The reports of a round.

    Attributes:
        parts: As they came.
        empty: Regions of entries that were found empty.
        doubtful: Ranges in bytes of which the report is lost, or was never had.
        failures: What failed, in sentences.
    """

    parts: list[Part] = field(default_factory=list)
    empty: list[Words] = field(default_factory=list)
    doubtful: list[tuple[int, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Walker:
    """Scans the memory of another process and protects what was written.

    Args: pagemap: Of the process. page_size: Bytes. tells_empty: Whether this kernel reports every empty entry as
        written; before the fixes of 2026 it passed over some.

    Attributes:
        walk: Of the round under way, or of one that an exception ended.
    """

    def __init__(self, pagemap: Pagemap, page_size: int, *, tells_empty: bool) -> None:
        self._pagemap = pagemap
        self._page_size = page_size
        self._tells_empty = tells_empty
        self._returned = _RETURNED | self._guard_category()
        self.walk = Walk()
        self._planned: tuple[object, list[Piece]] | None = None  # of the groups of the last round
        self._under_way: tuple[int, int] | None = None  # protecting, report not kept yet

    def _guard_category(self) -> int:
        """GUARD where the kernel knows it (since v6.16); asking otherwise is EINVAL."""
        try:
            self._ask(0, 0, mask=0, returned=PAGE_IS_GUARD)
        except PartialScanError as error:
            if error.errno == errno.EINVAL:
                return 0
            raise
        return PAGE_IS_GUARD

    def lost_range(self) -> tuple[int, int] | None:
        """What was being scanned when an exception came before its report was kept; told once."""
        lost, self._under_way = self._under_way, None
        return lost

    def run(self, groups: Sequence[Sequence[Vma]], held: Runs, *, thorough: bool) -> None:
        """Scan everything; ``walk`` has what was found, also when this raises.

        Args:
            groups: Mappings that are registered by us and that no other interrupts.
            held: Pages that held data at the last round, and those of mappings that are new.
            thorough: Every page is to be told: an earlier report was lost.

        Raises:
            MmGoneError: There is nothing to scan any more.
        """
        thorough = thorough or not self._tells_empty
        if self._planned is None or self._planned[0] is not groups:
            self._planned = groups, [piece for group in groups for piece in pieces(group)]
        for piece in self._planned[1]:
            self._scan_piece(piece, Manner.WHOLE if thorough else piece.manner, held)

    def unregistered(self, start: int, end: int) -> Words:
        """Regions of a range in mappings that nobody has registered: PRESENT, SWAPPED, WRITTEN. Protects nothing."""
        bit = PAGE_IS_WPALLOWED
        return self._ask(start, end, mask=bit, inverted=bit, returned=THERE | PAGE_IS_WRITTEN)

    def written(self, groups: Sequence[Sequence[Vma]]) -> Runs:
        """Pages that are there and not protected, in groups as of ``run()``. Protects nothing."""
        mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN
        spans = ((group[0].start, group[-1].end) for group in groups)
        found = [self._ask(start, end, mask=mask, anyof=THERE, returned=0) for start, end in spans]
        return pages_of(found, self._page_size)

    # ---- one piece -------------------------------------------------------------------------------

    def _scan_piece(self, piece: Piece, manner: Manner, held: Runs) -> None:
        start, end = piece.start, piece.end
        try:
            if manner is Manner.WHOLE:
                self._protect(start, end, is_whole=True, with_files=piece.has_files)
            elif manner is Manner.FILE:
                self._look_at(held, start, end)
                for first, last in self._unprotected(start, end):
                    self._protect(first, last, is_whole=True, with_files=True)
            else:
                self._protect(start, end, is_whole=False, with_files=False)
                self._look_for_empty(start, end)
        except PartialScanError as error:
            self._note_failure(error, end)

    def _protect(self, start: int, end: int, *, is_whole: bool, with_files: bool) -> None:
        """One scan that protects: its report is kept, or its range known to be in doubt."""
        self._under_way = start, end
        try:
            regions = self._pagemap.scan(
                start,
                end,
                mask=PAGE_IS_WPALLOWED | (0 if is_whole else PAGE_IS_WRITTEN),
                anyof=THERE,
                returned=self._returned | PAGE_IS_FILE * with_files,
                write_protect=True,
            )
        except PartialScanError as error:
            words = _words(error.regions)
            error.at = int(words[-1, 1]) if len(words) else start
            self.walk.parts.append(Part(start, error.at, words, is_whole))
            self._under_way = None
            raise
        self.walk.parts.append(Part(start, end, _words(regions), is_whole))
        self._under_way = None

    def _look_for_empty(self, start: int, end: int) -> None:
        """Entries that are neither there nor protected: never used, or given back."""
        mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | THERE
        self.walk.empty.append(self._ask(start, end, mask=mask, inverted=THERE, returned=0))

    def _look_at(self, held: Runs, start: int, end: int) -> None:
        """The pages that held data: what they are now. Whatever else is there was not the process's own."""
        size = self._page_size
        words = [np.empty((0, 3), np.uint64)]
        for first, last in few(clip(held, start // size, end // size)).tolist():
            words.append(
                self._ask(
                    first * size,
                    last * size,
                    mask=PAGE_IS_WPALLOWED,
                    anyof=THERE,
                    returned=self._returned | PAGE_IS_FILE,
                )
            )
        self.walk.parts.append(Part(start, end, np.concatenate(words), True))

    def _unprotected(self, start: int, end: int) -> list[tuple[int, int]]:
        """Ranges in which some page is there that is not protected, in bytes."""
        mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN
        words = self._ask(start, end, mask=mask, anyof=THERE, returned=0)
        runs = few(words[:, :2].view(np.int64) // self._page_size) * self._page_size
        return [(first, last) for first, last in runs.tolist()]

    def _ask(
        self, start: int, end: int, *, mask: int, inverted: int = 0, anyof: int = 0, returned: int
    ) -> Words:
        """A scan that changes nothing."""
        try:
            return _words(
                self._pagemap.scan(start, end, mask=mask, inverted=inverted, anyof=anyof, returned=returned)
            )
        except PartialScanError as error:
            error.at = start
            if error.errno == errno.ESRCH:
                raise MmGoneError from error
            raise

    def _note_failure(self, error: PartialScanError, end: int) -> None:
        if error.errno == errno.ESRCH:
            raise MmGoneError from error
        self.walk.doubtful.append((error.at, end))
        self.walk.failures.append(
            f"[{error.at:#x}, {end:#x}) could not be scanned ({error.strerror}); all that held data there is "
            "reported as assumed"
        )


def _words(regions: np.ndarray[tuple[int], np.dtype[np.void]]) -> Words:
    return regions.view(np.uint64).reshape(-1, 3)


def few(runs: Runs) -> Runs:
    """Not many runs that hold all of these, and more where they lie close to each other."""
    if len(runs) < 2:
        return runs
    starts_anew = np.concatenate(([True], runs[1:, 0] - runs[:-1, 1] > _NEAR_PAGES))
    ends = np.concatenate((starts_anew[1:], [True]))
    joined = np.stack((runs[starts_anew, 0], runs[ends, 1]), axis=1)
    return joined if len(joined) <= _MOST_RANGES else np.array([[joined[0, 0], joined[-1, 1]]], np.int64)


def pieces(group: Sequence[Vma]) -> Iterator[Piece]:
    """A group of mappings in ranges that one manner fits: large ones by themselves, small ones together."""
    small: list[Vma] = []
    for has_files, one_sort in itertools.groupby(group, key=lambda vma: vma.is_file and not vma.is_shared):
        run = list(one_sort)
        if sum(vma.end - vma.start for vma in run) < _LARGE_BYTES:
            small += run
            continue
        if small:
            yield _together(small)
            small = []
        yield Piece(run[0].start, run[-1].end, Manner.FILE if has_files else Manner.CHANGES, has_files)
    if small:
        yield _together(small)


def _together(vmas: Sequence[Vma]) -> Piece:
    has_files = any(vma.is_file and not vma.is_shared for vma in vmas)
    return Piece(vmas[0].start, vmas[-1].end, Manner.WHOLE, has_files)


def pages_of(words: Iterable[Words], page_size: int) -> Runs:
    """Page runs of regions, sorted and joined."""
    shift = page_size.bit_length() - 1
    joined = np.concatenate([np.empty((0, 3), np.uint64), *words])
    return normalise(joined[:, :2].view(np.int64) >> shift) if len(joined) else no_runs()
