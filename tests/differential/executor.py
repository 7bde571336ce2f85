"""Performs operations on a ``KernelCalls`` and says what came of each, in a form that can be compared.

Operations and outcomes are plain data (``arena.py``): they can be sent to another process, printed, and replayed.
Descriptors have names. What differs legitimately is masked in ``masks.py`` and nowhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.conformance.actions import ALL, DEFAULT_FLAGS, G
from tests.conformance.world import MemorySignal
from tests.differential import masks
from tests.differential.arena import (
    ARENA_PAGES,
    BASE,
    ELSEWHERE,
    FILE_FLAGS,
    HUGE_START,
    PAGE,
    Operation,
    Outcome,
    address,
    attempt,
    span,
)
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import PAGE_REGION, PmScanArg


class Executor:
    """The operations of one process. ``calls`` may be Linux's or the model's.

    Attributes:
        descriptors: Name -> number, of files and contexts; a forked child starts with a copy.
        regular: (descriptor, bytes) of every regular file so far; so does it with this one.
    """

    def __init__(
        self, calls: Any, descriptors: dict[str, int] | None = None, regular: Sequence[tuple[int, int]] = ()
    ) -> None:
        self._calls = calls
        self.descriptors = dict(descriptors or {})
        self.regular = list(regular)
        self._pagemap = calls.open_pagemap(None)
        self._vec = np.zeros(1024, PAGE_REGION)

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Perform operations in order; one outcome each."""
        return [self._one(operation) for operation in operations]

    def _one(self, operation: Operation) -> Outcome:
        perform: Callable[..., Any] = getattr(self, f"do_{operation[0]}")
        return attempt(lambda: perform(*operation[1:]))

    # ---- files and mappings ----------------------------------------------------------------------

    def do_file(self, name: str, kind: str, n_pages: int) -> None:
        if kind == "regular":
            fd = self.descriptors[name] = self._calls.differential_file(n_pages * PAGE)
            self._read_ahead(fd, n_pages)
            self.regular.append((fd, n_pages * PAGE))
            return
        fd = self._calls.memfd_create(name, FILE_FLAGS[kind])
        self._calls.ftruncate(fd, n_pages * PAGE)
        self.descriptors[name] = fd

    def _read_ahead(self, fd: int, n_pages: int) -> None:
        """Bring a whole file into the page cache: what readahead would bring is the kernel's guess."""
        length = n_pages * PAGE
        at = self._calls.mmap(ELSEWHERE, length, mman.PROT_READ, mman.MAP_SHARED | mman.MAP_FIXED, fd, 0)
        with contextlib.suppress(MemorySignal):  # where it was truncated
            for page in range(n_pages):
                self._calls.load(at + page * PAGE, 1)
        self._calls.munmap(at, length)

    def _read_again(self) -> None:
        for fd, length in self.regular:
            self._read_ahead(fd, length // PAGE)

    def _write_back(self) -> None:
        """Leave no page of a file dirty: reclaim marks it with the flag that starts readahead, see masks.py."""
        for fd, length in self.regular:
            at = self._calls.mmap(ELSEWHERE, length, mman.PROT_READ, mman.MAP_SHARED | mman.MAP_FIXED, fd, 0)
            self._calls.msync(at, length, mman.MS_SYNC)
            self._calls.munmap(at, length)

    def do_map(self, page: int, n: int, prot: int, flags: int, file: str, offset: int) -> None:
        fd = self.descriptors.get(file, -1)
        flags |= mman.MAP_FIXED
        if not file:
            flags |= mman.MAP_ANONYMOUS
        self._calls.mmap(address(page), n * PAGE, prot, flags, fd, offset * PAGE)

    def do_unmap(self, page: int, n: int) -> None:
        self._calls.munmap(address(page), n * PAGE)

    def do_mprotect(self, page: int, n: int, prot: int) -> None:
        self._calls.mprotect(address(page), n * PAGE, prot)

    def do_madvise(self, page: int, n: int, advice: int) -> None:
        if masks.never_returns(self._calls, address(page), n * PAGE, advice):
            return
        self._calls.madvise(address(page), n * PAGE, advice)

    def do_page_out(self, page: int, n: int) -> None:
        self._write_back()
        try:
            self._calls.page_out(address(page), n * PAGE)
        finally:  # ENOMEM comes after everything else was done
            self._read_again()

    def do_mremap(self, page: int, old: int, new: int, flags: int, target: int) -> int:
        moved = self._calls.mremap(address(page), old * PAGE, new * PAGE, flags, address(target))
        return int(moved - BASE) // PAGE

    def do_punch(self, file: str, page: int, n: int) -> None:
        mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
        self._calls.fallocate(self._fd(file), mode, page * PAGE, n * PAGE)
        self._read_again()

    def do_truncate(self, file: str, n: int) -> None:
        self._calls.ftruncate(self._fd(file), n * PAGE)
        self._read_again()

    def do_pwrite(self, file: str, page: int, value: int) -> int:
        return int(self._calls.pwrite(self._fd(file), bytes([value]), page * PAGE))

    def _fd(self, name: str) -> int:
        return self.descriptors.get(name, -1)

    # ---- memory ----------------------------------------------------------------------------------

    def _is_stored_to_for_ever(self, page: int) -> bool:
        # Pages of hugetlbfs are nowhere else; asking about every store would take long.
        return page >= HUGE_START and masks.faults_for_ever(self._calls, self._pagemap, address(page))

    def do_store(self, page: int, value: int) -> None:
        if self._is_stored_to_for_ever(page):
            return
        self._calls.store(address(page), bytes([value]))

    def do_load(self, page: int) -> int:
        return int(self._calls.load(address(page), 1)[0])

    def do_kernel_store(self, page: int, value: int) -> None:
        if self._is_stored_to_for_ever(page):
            return
        self._calls.copy_to_user(address(page), bytes([value]))

    def do_kernel_load(self, page: int) -> int:
        return int(self._calls.copy_from_user(address(page), 1)[0])

    def do_peek(self, page: int, n: int) -> list[int]:
        """The first byte of each page that process_vm_readv(2) reaches."""
        return list(self._calls.peek(address(page), n * PAGE)[::PAGE])

    # ---- userfaultfd -----------------------------------------------------------------------------

    def do_context(self, name: str, features: int) -> tuple[int, int]:
        fd = self._calls.userfaultfd(DEFAULT_FLAGS)
        self.descriptors[name] = fd
        argument = uf.UffdioApi(uf.UFFD_API, features, 0)
        self._calls.uffdio(fd, uf.UFFDIO_API, argument)
        return masks.features(int(argument.features)), int(argument.ioctls)

    def do_close(self, name: str) -> None:
        self._calls.close(self.descriptors.pop(name, -1))

    def do_register(self, name: str, page: int, n: int, mode: int) -> int:
        argument = uf.UffdioRegister(span(page, n), mode, 0)
        self._calls.uffdio(self._fd(name), uf.UFFDIO_REGISTER, argument)
        return int(argument.ioctls)

    def do_unregister(self, name: str, page: int, n: int) -> None:
        self._calls.uffdio(self._fd(name), uf.UFFDIO_UNREGISTER, span(page, n))

    def do_wake(self, name: str, page: int, n: int) -> None:
        self._calls.uffdio(self._fd(name), uf.UFFDIO_WAKE, span(page, n))

    def do_writeprotect(self, name: str, page: int, n: int, mode: int) -> None:
        argument = uf.UffdioWriteprotect(span(page, n), mode)
        self._calls.uffdio(self._fd(name), uf.UFFDIO_WRITEPROTECT, argument)

    def do_copy(self, name: str, page: int, n: int, source: int, mode: int) -> Outcome:
        argument = uf.UffdioCopy(address(page), address(source), n * PAGE, mode, 0)
        return self._resolve(name, uf.UFFDIO_COPY, argument, "copy")

    def do_zeropage(self, name: str, page: int, n: int, mode: int) -> Outcome:
        return self._resolve(name, uf.UFFDIO_ZEROPAGE, uf.UffdioZeropage(span(page, n), mode, 0), "zeropage")

    def do_continue(self, name: str, page: int, n: int, mode: int) -> Outcome:
        return self._resolve(name, uf.UFFDIO_CONTINUE, uf.UffdioContinue(span(page, n), mode, 0), "mapped")

    def do_poison(self, name: str, page: int, n: int, mode: int) -> Outcome:
        return self._resolve(name, uf.UFFDIO_POISON, uf.UffdioPoison(span(page, n), mode, 0), "updated")

    def do_move(self, name: str, page: int, n: int, source: int, mode: int) -> Outcome:
        argument = uf.UffdioMove(address(page), address(source), n * PAGE, mode, 0)
        return self._resolve(name, uf.UFFDIO_MOVE, argument, "move")

    def _resolve(self, name: str, request: int, argument: uf.UffdioArgument, field: str) -> Outcome:
        """An ioctl whose result field matters on failure too."""
        code = "0"
        try:
            self._calls.uffdio(self._fd(name), request, argument)
        except OSError as failure:
            code = errno.errorcode.get(failure.errno or 0, str(failure.errno))
        return code, int(getattr(argument, field))

    def do_messages(self, name: str) -> list[tuple[int, ...]]:
        data = self._calls.read_messages(self._fd(name), 16)
        return [
            (int(m["event"]) & 0xFF, *(int(word) for word in m["arg"]))
            for m in np.frombuffer(data, uf.UFFD_MSG)
        ]

    # ---- what can be seen ------------------------------------------------------------------------

    def do_scan(
        self,
        page: int,
        n: int,
        flags: int,
        mask: int,
        anyof: int,
        inverted: int,
        returns: int,
        vec: int,
        max_pages: int,
    ) -> Outcome:
        """Any PAGEMAP_SCAN; a refusal still shows what it left in ``walk_end`` and in the vec."""
        argument = PmScanArg(
            size=ctypes.sizeof(PmScanArg),
            flags=flags,
            start=address(page),
            end=address(page + n),
            walk_end=BASE,
            max_pages=max_pages,
            category_inverted=inverted,
            category_mask=mask,
            category_anyof_mask=anyof,
            return_mask=returns,
        )
        regions = self._vec[:vec] if vec else None
        self._vec["end"] = 0
        try:
            count = int(self._calls.pagemap_scan(self._pagemap, argument, regions))
        except OSError as failure:
            count = -(failure.errno or 0)
        found = self._vec[: max(count, 0)] if count >= 0 else self._vec[self._vec["end"] > 0]
        return count, (int(argument.walk_end) - BASE) // PAGE, masks.regions(found, BASE, PAGE)

    def do_see(self, page: int, n: int) -> Outcome:
        """Every category, as one scan reports it."""
        return self.do_scan(page, n, 0, 0, 0, 0, ALL | G, 1024, 0)

    def do_entries(self, page: int, n: int) -> tuple[tuple[int, int], ...]:
        """Pagemap entries as runs of (number of pages, flags)."""
        entries = self._calls.read_pagemap(self._pagemap, address(page) // PAGE, n) & masks.ENTRY_BITS
        edges = np.flatnonzero(np.diff(entries)) + 1
        starts = np.concatenate(([0], edges))
        lengths = np.diff(np.append(starts, len(entries)))
        return tuple((int(length), int(entries[at])) for at, length in zip(starts, lengths, strict=True))

    def do_vmas(self) -> list[tuple[int, int, str]]:
        """VMAs inside the arena."""
        return [
            ((vma.start - BASE) // PAGE, (vma.end - BASE) // PAGE, vma.perms)
            for vma in self._calls.vmas(None)
            if vma.start >= BASE and vma.end <= BASE + ARENA_PAGES * PAGE
        ]
