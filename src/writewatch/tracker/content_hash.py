"""The backend that needs nothing from the kernel: remember a digest of every page, compare when asked.

It finds what changed, not what was written: a store of the same value does not count. A page is hashed at some
moment of the harvest; a write that lands after that moment changes the digest for the next one, so writers may
run on meanwhile. It reads all of the memory every time, at the speed of the hash, and reads it through
the kernel: a page that cannot be read then counts as changed, where a load would end the process.

It compares moments. Content that goes from A to B and back to A between two harvests is reported by neither, which
is true of the memory but not of a copy that was taken meanwhile: a page is hashed while it holds A, is
overwritten with B before its reader copies it, and holds A again when it is hashed next. The copy has B and is
never corrected. Every other backend sees the two stores. So here writers have to rest from a collect until
what it reported was copied, where old content may come back.

Reading costs page tables too. ``process_vm_readv(2)`` faults for reading what was never touched (the zero page is
mapped there), and pins what it reads as if for a device: a page that is shared with a forked child, copy on write,
is copied although nobody wrote it.

The digest is 64 bits of BLAKE2b, or of XXH3 where the package ``xxhash`` is installed, which is ten times
faster: two contents of one page are mistaken for each other once in 2**64 changes. Eight bytes a page are
0.2 % of the tracked memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls
from writewatch.pages import Runs, difference, intersection, no_runs, normalise, runs_of_mask, union
from writewatch.tracker.backend import Harvest, RangeRefusedError
from writewatch.tracker.pageset import PageValues

#: Read and hashed at a time: what is read is still in the cache when it is hashed.
_BLOCK_BYTES: Final = 1 << 18

Digest = Callable[[bytes], bytes]


def best_digest() -> tuple[str, Digest]:
    """Name and function of the fastest 64-bit digest at hand."""
    try:
        import xxhash
    except ImportError:
        import hashlib

        return "BLAKE2b", lambda page: hashlib.blake2b(page, digest_size=8, usedforsecurity=False).digest()
    return "XXH3", xxhash.xxh3_64_digest


class ContentHash:
    """Compares digests of pages."""

    name = "content-hash"

    def __init__(self, calls: KernelCalls) -> None:
        self._calls = calls
        self._page_size = calls.page_size
        self.digest_name, self._digest = best_digest()
        self._digests = PageValues(no_runs(), np.uint64)
        self._unread = no_runs()  # by the latest harvest: their digests are of an earlier moment

    def adjust(self, wanted: Runs) -> None:
        """Hash what is new; keep the digests of what stays."""
        before, after = self._digests, PageValues(wanted, np.uint64)
        for first, last, values in after.parts(difference(wanted, before.pages)):
            digests, is_read = self._hash(first, last)
            if not is_read.all():
                start, end = (first + runs_of_mask(~is_read)[0]) * self._page_size
                raise RangeRefusedError(
                    f"[{start:#x}, {end:#x}) cannot be read, so not be hashed", (self.name,)
                )
            values[:] = digests
        after.take_over(before)
        self._unread = intersection(self._unread, wanted)
        self._digests = after

    def units(self, spans: Runs) -> list[Runs]:
        """What is tracked of what was asked, in one part."""
        tracked = intersection(spans, self._digests.pages)
        return [tracked] if len(tracked) else []

    def harvest(self, unit: Runs) -> Harvest:
        """Hash, compare, remember. What cannot be read is assumed changed, then and when it can be read again."""
        changed, blind = [no_runs()], [no_runs()]
        for first, last, digests in self._digests.parts(unit):
            fresh, is_read = self._hash(first, last)
            changed.append(runs_of_mask((fresh != digests) & is_read) + first)
            blind.append(runs_of_mask(~is_read) + first)
            np.copyto(digests, fresh, where=is_read)
        unread = normalise(np.concatenate(blind))
        regained = difference(intersection(self._unread, unit), unread)
        self._unread = union(difference(self._unread, unit), unread)
        return Harvest(normalise(np.concatenate(changed)), union(unread, regained))

    def has_written(self, spans: Runs) -> bool:
        """Stops at the first block with a page that differs, or cannot be read, or could not be."""
        if len(intersection(self._unread, spans)):
            return True
        block = _BLOCK_BYTES // self._page_size or 1
        for first, last, digests in self._digests.parts(spans):
            for at in range(first, last, block):
                fresh, is_read = self._hash(at, min(at + block, last))
                if not is_read.all() or (fresh != digests[at - first : at - first + block]).any():
                    return True
        return False

    def abandon(self) -> None:
        """Nothing was inherited but memory."""

    def close(self) -> None:
        """Forget the digests."""
        self._digests, self._unread = PageValues(no_runs(), np.uint64), no_runs()

    def _hash(self, first: int, last: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Digests of a page run, and which pages could be read."""
        size, digest = self._page_size, self._digest
        is_read = np.ones(last - first, np.bool_)
        parts = []
        for at in range(first * size, last * size, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, last * size - at)
            block = self._calls.peek(at, length)
            if len(block) < length:
                block = self._page_by_page(at, length, is_read[at // size - first :])
            parts += [digest(block[i : i + size]) for i in range(0, length, size)]
        return np.frombuffer(b"".join(parts), np.uint64), is_read

    def _page_by_page(self, start: int, length: int, is_read: NDArray[np.bool_]) -> bytes:
        """A block with pages that cannot be read: zeros stand for those, and they are marked."""
        size = self._page_size
        pages = [self._calls.peek(start + i, size) for i in range(0, length, size)]
        is_read[: len(pages)] = [len(page) == size for page in pages]
        return b"".join(page.ljust(size, b"\0") for page in pages)
