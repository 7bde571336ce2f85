"""The short words that cases are written in: places, contexts, areas, scans.

A **place** is a world with its page sizes; a **context** is one userfaultfd; an **area** is one mapping,
addressed by page index; a **scan** is one PAGEMAP_SCAN and what came back.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest

from tests.conformance.world import Need, Task, Unavailable, World
from writewatch.abi import mman, pagemap
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import PAGE_REGION, PM_UFFD_WP, PmScanArg

W: Final = pagemap.PAGE_IS_WRITTEN
A: Final = pagemap.PAGE_IS_WPALLOWED
F: Final = pagemap.PAGE_IS_FILE
P: Final = pagemap.PAGE_IS_PRESENT
S: Final = pagemap.PAGE_IS_SWAPPED
Z: Final = pagemap.PAGE_IS_PFNZERO
H: Final = pagemap.PAGE_IS_HUGE
G: Final = pagemap.PAGE_IS_GUARD
ALL: Final = A | W | F | P | S | Z | H
GET_AND_PROTECT: Final = pagemap.PM_SCAN_WP_MATCHING | pagemap.PM_SCAN_CHECK_WPASYNC
WP_MATCHING: Final = pagemap.PM_SCAN_WP_MATCHING

MISSING: Final = uf.UFFDIO_REGISTER_MODE_MISSING
WP: Final = uf.UFFDIO_REGISTER_MODE_WP
MINOR: Final = uf.UFFDIO_REGISTER_MODE_MINOR

ASYNC: Final = uf.UFFD_FEATURE_WP_ASYNC
DEFAULT_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK | uf.UFFD_USER_MODE_ONLY
RW: Final = mman.PROT_READ | mman.PROT_WRITE
PRIVATE: Final = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
SHARED: Final = mman.MAP_SHARED | mman.MAP_ANONYMOUS

_LETTERS: Final = ((A, "A"), (W, "W"), (F, "F"), (P, "P"), (S, "S"), (Z, "Z"), (H, "H"), (G, "G"))


def letters(categories: int) -> str:
    """Categories in bit order: A(llowed) W(ritten) F(ile) P(resent) S(wapped) Z(ero) H(uge) G(uard)."""
    return "".join(letter for bit, letter in _LETTERS if categories & bit)


def raises(number: int) -> pytest.RaisesExc[OSError]:
    """The call inside fails with exactly that errno."""
    return pytest.RaisesExc(OSError, check=lambda failure: failure.errno == number)


@dataclass(frozen=True)
class Scan:
    """What one PAGEMAP_SCAN returned.

    Attributes:
        returned: Number of regions.
        regions: (first page, end page, categories) of each, in pages from the area's start.
        walk_end: In pages from the area's start.
    """

    returned: int
    regions: tuple[tuple[int, int, int], ...]
    walk_end: int

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The regions without their categories."""
        return [(first, end) for first, end, _ in self.regions]

    @property
    def pages(self) -> list[int]:
        """Every page of the regions."""
        return [page for first, end, _ in self.regions for page in range(first, end)]


class Area:
    """One mapping, or part of one; pages are counted from its start."""

    def __init__(self, place: Place, start: int, length: int) -> None:
        self.place, self.start, self.length = place, start, length
        self.end = start + length
        self.n_pages = length // place.page

    def address(self, page: int) -> int:
        return self.start + page * self.place.page

    def part(self, first: int, end: int) -> Area:
        """Pages ``[first, end)`` of this area, as an area of its own."""
        return Area(self.place, self.address(first), (end - first) * self.place.page)

    # ---- memory ----------------------------------------------------------------------------------

    def write(self, *pages: int, value: int = 1) -> None:
        """One byte into each page, in user mode."""
        self.place.world.touch([self.address(page) for page in pages], value)

    def fill(self, value: int = 1) -> None:
        """One byte into every page."""
        self.write(*range(self.n_pages), value=value)

    def read(self, page: int) -> int:
        """The first byte of a page, read in user mode."""
        return self.place.calls.load(self.address(page), 1)[0]

    def read_all(self) -> list[int]:
        return [self.read(page) for page in range(self.n_pages)]

    def kernel_write(self, page: int, value: int = 1) -> None:
        """One byte by a system call that writes to memory."""
        self.place.calls.copy_to_user(self.address(page), bytes([value]))

    def advise(self, advice: int) -> None:
        self.place.calls.madvise(self.start, self.length, advice)

    def guard(self) -> None:
        """Install guard markers; skipped on a kernel that has none, or does not report them."""
        if not self.place.categories & G:
            raise Unavailable("needs guard regions and their category, which Linux has since v6.16")
        self.advise(mman.MADV_GUARD_INSTALL)

    def page_out(self) -> None:
        """Swap the area out; skipped where the machine has no swap area."""
        self.place.world.needs(Need.SWAP)
        self.place.world.page_out(self.start, self.length)

    def protection(self, prot: int) -> None:
        self.place.calls.mprotect(self.start, self.length, prot)

    def unmap(self) -> None:
        self.place.calls.munmap(self.start, self.length)

    # ---- what the kernel says about it -----------------------------------------------------------

    def entries(self) -> list[int]:
        """``/proc/PID/pagemap`` of every page."""
        fd = self.place.pagemap
        entries = self.place.calls.read_pagemap(fd, self.start // self.place.page, self.n_pages)
        return [int(entry) for entry in entries]

    def protected(self) -> list[int]:
        """Pages whose entry has bit 57."""
        return [page for page, entry in enumerate(self.entries()) if entry & PM_UFFD_WP]

    def scan(
        self,
        flags: int = 0,
        mask: int = 0,
        anyof: int = 0,
        inverted: int = 0,
        returns: int = 0,
        vec: int | None = 4096,
        max_pages: int = 0,
    ) -> Scan:
        """PAGEMAP_SCAN of the area; vec None passes a null pointer of length 0."""
        argument = PmScanArg(
            size=96,
            flags=flags,
            start=self.start,
            end=self.end,
            max_pages=max_pages,
            category_mask=mask,
            category_anyof_mask=anyof,
            category_inverted=inverted,
            return_mask=returns,
        )
        return self.place.run_scan(argument, vec, self.start)

    def written(self) -> list[int]:
        """Pages that a plain scan for WRITTEN reports."""
        return self.scan(mask=W, returns=W).pages

    def collect(self, max_pages: int = 0, vec: int = 4096) -> Scan:
        """Report the written pages and protect them again."""
        return self.scan(GET_AND_PROTECT, mask=W, returns=W, vec=vec, max_pages=max_pages)

    def states(self) -> list[str]:
        """Category letters of each page; "none" where nothing is reported."""
        states = ["none"] * self.n_pages
        for first, end, categories in self.scan(returns=self.place.categories).regions:
            states[first:end] = [letters(categories)] * (end - first)
        return states

    def state(self, page: int = 0) -> str:
        return self.states()[page]


@dataclass(frozen=True)
class Message:
    """One ``struct uffd_msg``: event number and the three words of its union."""

    event: int
    words: tuple[int, int, int]

    @property
    def flags(self) -> int:
        return self.words[0]

    @property
    def address(self) -> int:
        return self.words[1]


class Context:
    """One userfaultfd after its handshake."""

    def __init__(self, place: Place, fd: int) -> None:
        self.place, self.fd = place, fd

    def _call(self, request: int, argument: uf.UffdioArgument) -> None:
        self.place.calls.uffdio(self.fd, request, argument)

    def register(self, area: Area, mode: int = WP) -> int:
        """UFFDIO_REGISTER; returns the ioctls word."""
        argument = uf.UffdioRegister(uf.UffdioRange(area.start, area.length), mode)
        self._call(uf.UFFDIO_REGISTER, argument)
        return int(argument.ioctls)

    def unregister(self, area: Area) -> None:
        self._call(uf.UFFDIO_UNREGISTER, uf.UffdioRange(area.start, area.length))

    def protect(self, area: Area, mode: int = uf.UFFDIO_WRITEPROTECT_MODE_WP) -> None:
        argument = uf.UffdioWriteprotect(uf.UffdioRange(area.start, area.length), mode)
        self._call(uf.UFFDIO_WRITEPROTECT, argument)

    def unprotect(self, area: Area, *, wake: bool = True) -> None:
        self.protect(area, 0 if wake else uf.UFFDIO_WRITEPROTECT_MODE_DONTWAKE)

    def wake(self, area: Area) -> None:
        self._call(uf.UFFDIO_WAKE, uf.UffdioRange(area.start, area.length))

    def copy(self, to: Area, source: int, mode: int = 0) -> uf.UffdioCopy:
        """UFFDIO_COPY; the returned structure is what the kernel left, see ``attempt`` for failures."""
        argument = uf.UffdioCopy(to.start, source, to.length, mode, 0)
        self._call(uf.UFFDIO_COPY, argument)
        return argument

    def zeropage(self, area: Area, mode: int = 0) -> int:
        argument = uf.UffdioZeropage(uf.UffdioRange(area.start, area.length), mode, 0)
        self._call(uf.UFFDIO_ZEROPAGE, argument)
        return int(argument.zeropage)

    def resume(self, area: Area, mode: int = 0) -> int:
        """UFFDIO_CONTINUE; returns the bytes mapped."""
        argument = uf.UffdioContinue(uf.UffdioRange(area.start, area.length), mode, 0)
        self._call(uf.UFFDIO_CONTINUE, argument)
        return int(argument.mapped)

    def poison(self, area: Area, mode: int = 0) -> int:
        argument = uf.UffdioPoison(uf.UffdioRange(area.start, area.length), mode, 0)
        self._call(uf.UFFDIO_POISON, argument)
        return int(argument.updated)

    def move(self, to: Area, source: int, mode: int = 0) -> int:
        argument = uf.UffdioMove(to.start, source, to.length, mode, 0)
        self._call(uf.UFFDIO_MOVE, argument)
        return int(argument.move)

    def attempt(self, request: int, argument: uf.UffdioArgument, field: str) -> tuple[int, int]:
        """An ioctl that may fail: its errno (0 for success) and the result field it left."""
        try:
            self._call(request, argument)
        except OSError as failure:
            return failure.errno or -1, int(getattr(argument, field))
        return 0, int(getattr(argument, field))

    def messages(self) -> list[Message]:
        """Every message that is pending."""
        return list(self._messages())

    def _messages(self) -> Iterable[Message]:
        while True:
            try:
                data = self.place.calls.read_messages(self.fd, 16)
            except OSError as failure:
                if failure.errno != errno.EAGAIN:
                    raise
                return
            for record in np.frombuffer(data, uf.UFFD_MSG):
                yield Message(int(record["event"]) & 0xFF, tuple(int(word) for word in record["arg"]))  # type: ignore[arg-type]

    def faults(self) -> list[tuple[int, int]]:
        """(flags, address) of every pending page fault."""
        return [(m.flags, m.address) for m in self.messages() if m.event == uf.UFFD_EVENT_PAGEFAULT]

    def close(self) -> None:
        self.place.calls.close(self.fd)


class Place:
    """A world with the words for its cases."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls = world.calls
        self.page = world.calls.page_size
        self.huge = world.calls.huge_page_size
        self.per_huge = self.huge // self.page
        self.pagemap = self.calls.open_pagemap(None)
        self.categories = ALL | self._known(G)  #: every category that the kernel knows, but soft-dirty

    def _known(self, category: int) -> int:
        """The category, or 0 where a scan of nothing refuses it."""
        try:
            self.calls.pagemap_scan(self.pagemap, PmScanArg(size=96, category_mask=category), None)
        except OSError:
            return 0
        return category

    # ---- contexts --------------------------------------------------------------------------------

    def open(self, *, kernel_faults: bool = False) -> Context:
        """A descriptor before its handshake, non-blocking."""
        if kernel_faults:
            self.world.needs(Need.PRIVILEGE)
        flags = DEFAULT_FLAGS & ~uf.UFFD_USER_MODE_ONLY if kernel_faults else DEFAULT_FLAGS
        return Context(self, self.calls.userfaultfd(flags))

    def context(self, features: int = 0, *, kernel_faults: bool = False) -> Context:
        """A context with these features; EINVAL where the kernel lacks one."""
        context = self.open(kernel_faults=kernel_faults)
        self.calls.uffdio(context.fd, uf.UFFDIO_API, uf.UffdioApi(uf.UFFD_API, features, 0))
        return context

    def asynchronous(self) -> Context:
        """A context that resolves write-protection faults in place."""
        return self.context(ASYNC)

    def armed(self, area: Area) -> Context:
        """An asynchronous context with the whole area registered and protected."""
        context = self.asynchronous()
        context.register(area)
        context.protect(area)
        return context

    # ---- mappings --------------------------------------------------------------------------------

    def map(
        self, n_pages: int, flags: int = PRIVATE, prot: int = RW, fd: int = -1, offset_pages: int = 0
    ) -> Area:
        length = n_pages * self.page
        return Area(self, self.calls.mmap(0, length, prot, flags, fd, offset_pages * self.page), length)

    def map_at(self, address: int, n_pages: int, flags: int = PRIVATE, prot: int = RW, fd: int = -1) -> Area:
        """A mapping at exactly that address, over whatever is there."""
        length = n_pages * self.page
        return Area(self, self.calls.mmap(address, length, prot, flags | mman.MAP_FIXED, fd, 0), length)

    def aligned(self, n_pages: int, prot: int = RW) -> Area:
        """Private anonymous memory that starts on a huge-page boundary."""
        room = self.map(n_pages + self.per_huge, prot=prot)
        start = room.start + self.huge - 1 & -self.huge
        if start > room.start:
            self.calls.munmap(room.start, start - room.start)
        end = start + n_pages * self.page
        self.calls.munmap(end, room.end - end)
        return Area(self, start, n_pages * self.page)

    def thp(self, n_huge: int = 1) -> Area:
        """Anonymous memory that transparent huge pages fill on first touch; not touched yet."""
        self.world.needs(Need.THP)
        area = self.aligned(n_huge * self.per_huge)
        area.advise(mman.MADV_HUGEPAGE)
        return area

    def filled_thp(self, n_huge: int = 1) -> Area:
        """The same, mapped by PMDs; skipped where the kernel gave small pages instead."""
        area = self.thp(n_huge)
        area.fill()
        if any("H" not in state for state in area.states()):
            pytest.skip("needs a transparent huge page: the kernel gave small pages, memory is fragmented")
        return area

    def memfd(self, n_pages: int, flags: int = 0) -> int:
        fd = self.calls.memfd_create("conformance", flags)
        self.calls.ftruncate(fd, n_pages * self.page)
        return fd

    def hugetlb(self, n_huge: int = 1, *, shared: bool = False) -> Area:
        self.world.needs(Need.HUGETLB)
        flags = (SHARED if shared else PRIVATE) | mman.MAP_HUGETLB
        return self.map(n_huge * self.per_huge, flags)

    def run_scan(self, argument: PmScanArg, vec: int | None, origin: int) -> Scan:
        """One PAGEMAP_SCAN; positions are reported in pages from ``origin``."""
        regions = None if vec is None else np.zeros(vec, PAGE_REGION)
        returned = self.calls.pagemap_scan(self.pagemap, argument, regions)
        found = () if regions is None else tuple(self._relative(r, origin) for r in regions[:returned])
        return Scan(returned, found, (argument.walk_end - origin) // self.page)

    def _relative(self, region: np.void, origin: int) -> tuple[int, int, int]:
        start, end, categories = (int(region[name]) for name in ("start", "end", "categories"))
        return (start - origin) // self.page, (end - origin) // self.page, categories

    def spawn_write(self, area: Area, page: int = 0, value: int = 1) -> Task:
        """A thread that stores one byte into a page."""
        return self.world.spawn("store", area.address(page), bytes([value]))

    def spawn_read(self, area: Area, page: int = 0) -> Task:
        """A thread that loads the first byte of a page."""
        return self.world.spawn("load", area.address(page), 1)

    def elsewhere(self, area: Area, world: World) -> Area:
        """The same addresses in another world."""
        return Area(Place(world), area.start, area.length)
