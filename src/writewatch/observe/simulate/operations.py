"""What the operations of a script are made of: each is a generator that yields system calls and is sent their results.

So the same operation runs on either side, and the model may run others in its middle. An ``OSError`` of a call
is thrown in where it was yielded. What an operation returns is plain data that can be compared and printed:
None, a number, or a dictionary.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Generator
from typing import Any, Final, TypeAlias

import numpy as np

from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import CLEAR_REFS_SOFT_DIRTY, PAGE_REGION, PmScanArg
from writewatch.observe.simulate.places import BASE

#: Method of ``KernelCalls`` (or ``regular_file``), and its arguments.
Call: TypeAlias = tuple[str, tuple[Any, ...]]
Calls: TypeAlias = Generator[Call, Any, Any]

_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK
_ELSEWHERE: Final = BASE + (1 << 40)
_MOST_MESSAGES: Final = 16


class Actor:
    """The operations of one process.

    Args:
        page_size: In bytes.
        descriptors: Name -> number; a forked child starts with its parent's.
    """

    def __init__(self, page_size: int, descriptors: dict[str, int] | None = None) -> None:
        self.page_size = page_size
        self.descriptors = dict(descriptors or {})

    def perform(self, operation: str, arguments: tuple[Any, ...]) -> Calls:
        """The calls of one operation."""
        calls: Calls = getattr(self, operation)(*arguments)
        return calls

    def _fd(self, name: str) -> int:
        return self.descriptors.get(name, -1)

    def _pages(self, start: int, length: int) -> range:
        return range(start, start + length, self.page_size)

    # ---- mappings and files ----------------------------------------------------------------------

    def mmap(self, at: int, length: int, prot: int, flags: int, file: str, offset: int, over: bool) -> Calls:
        """mmap(2) at a fixed address."""
        flags |= mman.MAP_FIXED if over else mman.MAP_FIXED_NOREPLACE
        flags |= 0 if file else mman.MAP_ANONYMOUS
        yield "mmap", (at, length, prot, flags, self._fd(file) if file else -1, offset)

    def munmap(self, start: int, length: int) -> Calls:
        """munmap(2)."""
        yield "munmap", (start, length)

    def mprotect(self, start: int, length: int, prot: int) -> Calls:
        """mprotect(2)."""
        yield "mprotect", (start, length, prot)

    def madvise(self, start: int, length: int, advice: int) -> Calls:
        """madvise(2)."""
        yield "madvise", (start, length, advice)

    def mremap(self, start: int, length: int, size: int, flags: int, to: int) -> Calls:
        """mremap(2)."""
        yield "mremap", (start, length, size, flags, to)

    def memfd(self, name: str, length: int, flags: int) -> Calls:
        """A memfd of that length."""
        fd = yield "memfd_create", (name, flags | mman.MFD_CLOEXEC)
        self.descriptors[name] = fd
        yield "ftruncate", (fd, length)

    def file(self, name: str, length: int) -> Calls:
        """A regular file of zeros, all of it in the page cache: what else would be read ahead is a guess of Linux."""
        fd = yield "regular_file", (length,)
        self.descriptors[name] = fd
        flags = mman.MAP_SHARED | mman.MAP_FIXED_NOREPLACE
        at = yield "mmap", (_ELSEWHERE, length, mman.PROT_READ, flags, fd, 0)
        for addr in self._pages(at, length):
            yield "load", (addr, 1)
        yield "munmap", (at, length)

    def truncate(self, name: str, length: int) -> Calls:
        """ftruncate(2)."""
        yield "ftruncate", (self._fd(name), length)

    def punch(self, name: str, offset: int, length: int) -> Calls:
        """fallocate(2) with ``FALLOC_FL_PUNCH_HOLE``."""
        mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
        yield "fallocate", (self._fd(name), mode, offset, length)

    def pwrite(self, name: str, offset: int, data: bytes) -> Calls:
        """pwrite(2)."""
        yield "pwrite", (self._fd(name), data, offset)

    # ---- accesses --------------------------------------------------------------------------------

    def read(self, start: int, length: int, kernel: bool) -> Calls:
        """Read the first byte of each page; returns them."""
        method = "copy_from_user" if kernel else "load"
        found = bytearray()
        for addr in self._pages(start, length):
            found += yield method, (addr, 1)
        return {"bytes": bytes(found).decode("latin-1")}

    def write(self, start: int, length: int, data: bytes, kernel: bool) -> Calls:
        """Write a text at the start of each page."""
        method = "copy_to_user" if kernel else "store"
        for addr in self._pages(start, length):
            yield method, (addr, data)

    # ---- userfaultfd -----------------------------------------------------------------------------

    def context(self, name: str, features: int, flags: int) -> Calls:
        """userfaultfd(2) and its handshake."""
        fd = yield "userfaultfd", (_FLAGS | flags,)
        self.descriptors[name] = fd
        yield "uffdio", (fd, uf.UFFDIO_API, uf.UffdioApi(uf.UFFD_API, features, 0))

    def close(self, name: str) -> Calls:
        """close(2)."""
        yield "close", (self.descriptors.pop(name, -1),)

    def register(self, name: str, start: int, length: int, mode: int) -> Calls:
        """``UFFDIO_REGISTER``; returns which ioctls the range allows."""
        argument = uf.UffdioRegister(uf.UffdioRange(start, length), mode, 0)
        yield "uffdio", (self._fd(name), uf.UFFDIO_REGISTER, argument)
        return {"ioctls": int(argument.ioctls)}

    def unregister(self, name: str, start: int, length: int) -> Calls:
        """``UFFDIO_UNREGISTER``."""
        yield "uffdio", (self._fd(name), uf.UFFDIO_UNREGISTER, uf.UffdioRange(start, length))

    def wake(self, name: str, start: int, length: int) -> Calls:
        """``UFFDIO_WAKE``."""
        yield "uffdio", (self._fd(name), uf.UFFDIO_WAKE, uf.UffdioRange(start, length))

    def writeprotect(self, name: str, start: int, length: int, mode: int) -> Calls:
        """``UFFDIO_WRITEPROTECT``, in both directions."""
        argument = uf.UffdioWriteprotect(uf.UffdioRange(start, length), mode)
        yield "uffdio", (self._fd(name), uf.UFFDIO_WRITEPROTECT, argument)

    def copy(self, name: str, to: int, source: int, length: int, mode: int) -> Calls:
        """``UFFDIO_COPY``."""
        return self._fill(name, uf.UFFDIO_COPY, uf.UffdioCopy(to, source, length, mode, 0), "copy")

    def move(self, name: str, to: int, source: int, length: int, mode: int) -> Calls:
        """``UFFDIO_MOVE``."""
        return self._fill(name, uf.UFFDIO_MOVE, uf.UffdioMove(to, source, length, mode, 0), "move")

    def zeropage(self, name: str, start: int, length: int, mode: int) -> Calls:
        """``UFFDIO_ZEROPAGE``."""
        argument = uf.UffdioZeropage(uf.UffdioRange(start, length), mode, 0)
        return self._fill(name, uf.UFFDIO_ZEROPAGE, argument, "zeropage")

    def resume(self, name: str, start: int, length: int, mode: int) -> Calls:
        """``UFFDIO_CONTINUE``."""
        argument = uf.UffdioContinue(uf.UffdioRange(start, length), mode, 0)
        return self._fill(name, uf.UFFDIO_CONTINUE, argument, "mapped")

    def poison(self, name: str, start: int, length: int, mode: int) -> Calls:
        """``UFFDIO_POISON``."""
        argument = uf.UffdioPoison(uf.UffdioRange(start, length), mode, 0)
        return self._fill(name, uf.UFFDIO_POISON, argument, "updated")

    def _fill(self, name: str, request: int, argument: uf.UffdioArgument, field: str) -> Calls:
        """An ioctl that says how far it came, on failure too: a negative errno where nothing was done."""
        code = ""
        try:
            yield "uffdio", (self._fd(name), request, argument)
        except OSError as failure:
            code = errno.errorcode.get(failure.errno or 0, str(failure.errno))
        return {"errno": code, field: int(getattr(argument, field))}

    def messages(self, name: str) -> Calls:
        """read(2) of what waits on a userfaultfd; a thread id is only said to be there."""
        data = yield "read_messages", (self._fd(name), _MOST_MESSAGES)
        return {"messages": [_message(one) for one in np.frombuffer(data, uf.UFFD_MSG)]}

    # ---- /proc -----------------------------------------------------------------------------------

    def scan(
        self,
        start: int,
        length: int,
        flags: int,
        mask: int,
        anyof: int,
        inverted: int,
        returned: int,
        n_vec: int,
        most: int,
    ) -> Calls:
        """``PAGEMAP_SCAN`` of this process."""
        fd = yield "open_pagemap", (None,)
        vec = np.zeros(n_vec, PAGE_REGION)
        argument = PmScanArg(
            size=ctypes.sizeof(PmScanArg),
            flags=flags,
            start=start,
            end=start + length,
            max_pages=most,
            category_inverted=inverted,
            category_mask=mask,
            category_anyof_mask=anyof,
            return_mask=returned,
        )
        try:
            count = yield "pagemap_scan", (fd, argument, vec)
        finally:
            yield "close", (fd,)
        return {"regions": vec[:count].tolist(), "walk_end": int(argument.walk_end)}

    def clear_refs(self) -> Calls:
        """Clear the soft-dirty bits of this process."""
        yield "clear_refs", (None, CLEAR_REFS_SOFT_DIRTY)


def _message(one: np.void) -> tuple[int, int, int, int]:
    event, (first, second, third) = int(one["event"]) & 0xFF, (int(word) for word in one["arg"])
    if event == uf.UFFD_EVENT_PAGEFAULT:
        return event, first, second, int(third > 0)
    return (event, 0, 0, 0) if event == uf.UFFD_EVENT_FORK else (event, first, second, third)
