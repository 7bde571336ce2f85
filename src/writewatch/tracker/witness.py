"""A second mapping of tracked shared memory, which nobody touches: what is dropped from the file shows there.

MADV_REMOVE, ``fallocate(2)`` with FALLOC_FL_PUNCH_HOLE and ``ftruncate(2)`` take content out of a file of shmem. Linux
unmaps those pages everywhere, but in a tracked mapping a protected entry leaves a marker behind, so that it goes
on counting as not written, and when it is read again it is a protected page of zeros. Nothing about it
tells that there was something else. (Private memory needs nothing of this: there the bit goes with the entry.)

So we keep a witness: ``mremap(2)`` with an old length of 0 maps the same pages once more, without a descriptor or
a privilege. What content there is, is mapped there as well (``MADV_POPULATE_READ``). An entry of the witness that is
empty afterwards was taken away by Linux together with the page: the content was dropped, or is in swap, or a huge
page was split or made. That is all reported as assumed. MADV_DONTNEED on the tracked mapping, which changes no content,
leaves the witness alone.

**No drop is missed.** The witness is looked at after the tracked range was harvested, and then filled: with what it
has lost, what was written, and what the tracked mapping shows. A drop before the look is reported now, one after it
by the next look. Content that is in no mapping can only have been there from the beginning, when the file is
asked (``mincore(2)``), or come past the mapping, which nobody here sees.

Costs: one entry for each page that has content, 0.2 % of it, and a second walk. Truth: ``shmem_fallocate()`` in
``mm/shmem.c``; ``zap_install_uffd_wp_if_needed()`` in ``mm/memory.c``; mremap(2).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

import numpy as np

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.mman import MADV_DONTFORK, MADV_POPULATE_READ, MREMAP_MAYMOVE, PROT_READ
from writewatch.abi.pagemap import PAGE_IS_PRESENT, PM_PRESENT
from writewatch.errors import UnseenWritesWarning
from writewatch.kernel.maps import read_smaps
from writewatch.kernel.pagemap import Pagemap
from writewatch.kernel.written import page_runs
from writewatch.pages import (
    Runs,
    clip,
    difference,
    intersection,
    mask_of_runs,
    no_runs,
    normalise,
    runs_of_mask,
    total,
    union,
)

#: How ``/proc/PID/maps`` names shmem. Other files of a tmpfs are taken for what they may be: files.
_SHMEM: Final = ("/dev/zero (deleted)", "/memfd:", "/SYSV", "/dev/shm/")  # noqa: S108

#: Pages without content that mincore(2) looks up in the time that a call of its own takes.
_PAGES_PER_CALL: Final = 64

#: Entries read at a time.
_CHUNK_PAGES: Final = 1 << 16

_WITHOUT: Final = (
    "[{:#x}, {:#x}) is shared memory that cannot be mapped once more ({}), so content that is dropped from it "
    "(MADV_REMOVE, a punched hole, truncate) is not seen; use memory mapped with MAP_PRIVATE"
)


def is_shmem(vma: Vma) -> bool:
    """Whether a mapping shows shared memory, going by its name."""
    return vma.is_shared and vma.name.startswith(_SHMEM)


class Witnesses:
    """The second mappings of all shared memory that a backend tracks.

    Args:
        calls: What to ask.
        pagemap: Of this process; still the backend's.
    """

    def __init__(self, calls: KernelCalls, pagemap: Pagemap) -> None:
        self._calls = calls
        self._pagemap = pagemap
        self._mappings: list[_Mapping] = []

    @property
    def is_any(self) -> bool:
        """Whether anything is watched."""
        return bool(self._mappings)

    def add(self, pages: Runs, vmas: Sequence[Vma]) -> list[Warning]:
        """Watch pages that are in some shared mappings of shmem. What cannot be is told, not raised."""
        failed: list[Warning] = []
        for vma in vmas:
            size = self._calls.page_size
            inside = clip(pages, vma.start // size, vma.end // size)
            try:
                if len(inside):
                    self._add(inside)
            except OSError as error:
                start, end = int(inside[0, 0]) * size, int(inside[-1, 1]) * size
                failed.append(UnseenWritesWarning(_WITHOUT.format(start, end, error.strerror)))
        return failed

    def _add(self, pages: Runs) -> None:
        start, length = (
            pages[0, 0] * self._calls.page_size,
            (pages[-1, 1] - pages[0, 0]) * self._calls.page_size,
        )
        address = self._calls.mremap(int(start), 0, int(length), MREMAP_MAYMOVE)
        mapping = _Mapping(self._calls, self._pagemap, address, pages)
        self._mappings.append(mapping)
        try:
            mapping.fill_first()
        except BaseException:
            self._mappings.remove(mapping)
            mapping.unmap()
            raise

    def keep(self, wanted: Runs) -> None:
        """Give back the mappings of which no page is wanted any more."""
        for mapping in list(self._mappings):
            if not len(intersection(mapping.pages, wanted)):
                self._mappings.remove(mapping)
                mapping.unmap()

    def replace(self, pages: Runs, vmas: Sequence[Vma]) -> list[Warning]:
        """Forget what was known of some pages, which are mapped anew; watch those in some mappings."""
        for mapping in self._mappings:
            mapping.pages = difference(mapping.pages, pages)
        self.keep(normalise(np.concatenate([no_runs(), *(mapping.pages for mapping in self._mappings)])))
        return self.add(pages, vmas)

    def lost(self, spans: Runs) -> bool:
        """Whether content of some pages was dropped since they were harvested; changes nothing."""
        return any(len(mapping.lost(intersection(mapping.pages, spans))[0]) for mapping in self._mappings)

    def harvest(self, unit: Runs, written: Runs) -> Runs:
        """Pages of a unit whose content was dropped; then watch what has content now.

        Args:
            unit: Page runs that were harvested just now.
            written: What was written there.
        """
        found = [no_runs()]
        for mapping in self._mappings:
            pages = intersection(mapping.pages, unit)
            if len(pages):
                found.append(mapping.harvest(pages, written))
        return normalise(np.concatenate(found))

    def abandon(self) -> None:
        """In a forked child, which has none of the mappings (MADV_DONTFORK)."""
        self._mappings = []

    def close(self) -> None:
        """Unmap everything."""
        self.keep(no_runs())


class _Mapping:
    """One of them: pages are numbered as in the tracked mapping throughout."""

    def __init__(self, calls: KernelCalls, pagemap: Pagemap, address: int, pages: Runs) -> None:
        self._calls = calls
        self._pagemap = pagemap
        self._size = calls.page_size
        self._address = address
        self.pages = pages
        self._first, self._last = int(pages[0, 0]), int(pages[-1, 1])
        self._shift = address // self._size - self._first
        self._held = np.zeros(self._last - self._first, np.bool_)  # had content when last looked at

    @property
    def _length(self) -> int:
        return (self._last - self._first) * self._size

    def fill_first(self) -> None:
        """Map what the file holds. Content in swap is not told from none, so all of it counts as content then."""
        self._calls.madvise(self._address, self._length, MADV_DONTFORK)
        self._calls.mprotect(self._address, self._length, PROT_READ)
        self._fill(self.pages)
        if self._may_be_in_swap():
            self._held[:] = True

    def lost(self, pages: Runs) -> tuple[Runs, Runs]:
        """Of some pages those whose content is gone, and all that are not mapped here."""
        if not len(pages):
            return pages, pages
        empty = intersection(self._pages_where(self._shift, pages, is_present=False), pages)
        if not len(empty):
            return empty, empty
        mask = mask_of_runs(empty - self._first, len(self._held))
        return runs_of_mask(mask & self._held) + self._first, empty

    def harvest(self, pages: Runs, written: Runs) -> Runs:
        """What ``lost`` says; what has content is mapped again."""
        gone, empty = self.lost(pages)
        # A fault maps what is around it as well, a whole huge page perhaps: what a store puts there is no news here.
        self._mark(difference(pages, empty), True)
        if not len(empty):
            return gone
        shown = self._pages_where(0, empty, is_present=True)
        self._mark(gone, len(gone) > 0 and self._may_be_in_swap())
        self._fill(intersection(empty, union(union(shown, written), gone)))
        return gone

    def unmap(self) -> None:
        self._calls.munmap(self._address, self._length)

    def _pages_where(self, shift: int, pages: Runs, *, is_present: bool) -> Runs:
        """Where entries are present, or are not, from the first of some pages to the last."""
        first, last = int(pages[0, 0]) + shift, int(pages[-1, 1]) + shift
        inverted = 0 if is_present else PAGE_IS_PRESENT
        try:
            found = self._pagemap.scan(
                first * self._size, last * self._size, mask=PAGE_IS_PRESENT, inverted=inverted, returned=0
            )
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            return self._entries_where(first, last, is_present) - shift
        return page_runs(found.view(np.uint64).reshape(-1, 3), self._size) - shift

    def _entries_where(self, first: int, last: int, is_present: bool) -> Runs:
        """The same before v6.7, which has no PAGEMAP_SCAN."""
        found = [no_runs()]
        for at in range(first, last, _CHUNK_PAGES):
            entries = self._pagemap.entries(at * self._size, min(at + _CHUNK_PAGES, last) * self._size)
            found.append(runs_of_mask((entries & np.uint64(PM_PRESENT) != 0) == is_present) + at)
        return normalise(np.concatenate(found))

    def _fill(self, pages: Runs) -> None:
        """Map the content that some pages have in memory; from now on it is held."""
        if not len(pages):
            return
        cached = self._cached(pages)
        self._mark(cached, True)
        for first, last in cached.tolist():
            self._populate((first + self._shift) * self._size, (last - first) * self._size)

    def _populate(self, start: int, length: int) -> None:
        """Map what is there. What cannot be mapped is found empty by the next look."""
        try:
            self._calls.madvise(start, length, MADV_POPULATE_READ)
        except OSError:  # before v5.14; or the file has become shorter, and a load would be SIGBUS
            for at in range(start, start + length, self._size):
                self._calls.peek(at, 1)

    def _cached(self, pages: Runs) -> Runs:
        """What of some pages is in memory. One that is not costs mincore(2) the most, so few are asked one by one."""
        hull = np.array([[pages[0, 0], pages[-1, 1]]], np.int64)
        asked = pages if len(pages) * _PAGES_PER_CALL < total(hull) else hull
        found = [no_runs()]
        for first, last in asked.tolist():
            at, length = (first + self._shift) * self._size, (last - first) * self._size
            found.append(runs_of_mask(self._calls.mincore(at, length) != 0) + first)
        return intersection(pages, np.concatenate(found))

    def _mark(self, pages: Runs, held: bool) -> None:
        self._held[mask_of_runs(pages - self._first, len(self._held))] = held

    def _may_be_in_swap(self) -> bool:
        """Whether part of the file is in swap: smaps tells, but walks everything, so it is asked only if need be."""
        if not _is_swap_used():
            return False
        return any(one.swap_bytes for one in read_smaps() if one.vma.start <= self._address < one.vma.end)


def _is_swap_used() -> bool:
    try:
        with open("/proc/swaps", encoding="ascii") as file:
            return any(int(line.split()[3]) for line in file.read().splitlines()[1:])
    except (OSError, ValueError, IndexError):
        return True
