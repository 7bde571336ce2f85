"""Loads and stores: by the program, by the kernel on its behalf, one by one and many at once.

Truth: the processor; and lib/usercopy.c for the kernel's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from writewatch.model.fault import handle_mm_fault, lookup, resolve, vma_for
from writewatch.model.mm import Mm
from writewatch.model.signals import MustWait
from writewatch.model.waits import Steps


def pieces(mm: Mm, addr: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(address, position, length) of the part of a range in each page."""
    size = mm.machine.page_size
    at = 0
    while at < length:
        count = min(length - at, size - (addr + at) % size)
        yield addr + at, at, count
        at += count


def load(mm: Mm, addr: int, length: int, *, user: bool = True) -> bytes:
    """Read memory.

    Raises:
        Segfault, BusError: As the processor.
        MustWait: A userfaultfd has to serve a page.
    """
    parts = []
    for at, _, count in pieces(mm, addr, length):
        pfn = resolve(mm, at, write=False, user=user)
        parts.append(mm.machine.frames.read(pfn, at % mm.machine.page_size, count))
    return b"".join(parts)


def store(mm: Mm, addr: int, data: bytes, *, user: bool = True) -> None:
    """Write memory; what is before a page that raises has been written."""
    for at, position, count in pieces(mm, addr, len(data)):
        pfn = resolve(mm, at, write=True, user=user)
        mm.machine.frames.write(pfn, at % mm.machine.page_size, data[position : position + count])


# ---- in steps ------------------------------------------------------------------------------------
# An access and the fault that it takes are separate: between them, and between the fault and the access that is made
# again, other threads run. That is where a page may be protected again.


def load_steps(mm: Mm, addr: int, length: int, *, user: bool = True) -> Steps[bytes]:
    """``load`` that can be interleaved and can sleep."""
    parts: list[bytes] = []
    for at, position, count in pieces(mm, addr, length):
        if position:
            yield None
        pfn = yield from _reach(mm, at, write=False, user=user)
        parts.append(mm.machine.frames.read(pfn, at % mm.machine.page_size, count))
    return b"".join(parts)


def store_steps(mm: Mm, addr: int, data: bytes, *, user: bool = True) -> Steps[None]:
    """``store`` that can be interleaved and can sleep."""
    for at, position, count in pieces(mm, addr, len(data)):
        if position:
            yield None
        pfn = yield from _reach(mm, at, write=True, user=user)
        mm.machine.frames.write(pfn, at % mm.machine.page_size, data[position : position + count])


def _reach(mm: Mm, addr: int, *, write: bool, user: bool) -> Steps[int]:
    while True:
        vma = vma_for(mm, addr, write=write)
        pfn = lookup(mm, addr, write=write)
        if pfn >= 0:
            return pfn
        yield None
        try:
            # The fault looks the VMA up again: it may have gone since the access.
            vma = vma_for(mm, addr, write=write)
            handle_mm_fault(mm, vma, addr, write=write, user=user)
        except MustWait as sleep:
            wait = sleep.wait
            while not wait.done:
                yield wait
        yield None
