"""The backend that needs nothing from the kernel: remember a digest of every page, compare when asked.

It finds what changed, not what was written: a store of the same value does not count. A page is hashed at some
moment of the harvest; a write that lands after that moment changes the digest for the next one, so writers may
run on meanwhile. It reads all of the memory every time, at the speed of the hash.

The digest is 64 bits of BLAKE2b, or of XXH3 where the package ``xxhash`` is installed, which is ten times
faster: two contents of one page are mistaken for each other once in 2**64 changes. Eight bytes a page are
0.2 % of the tracked memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls
from writewatch.pages import Runs, difference, intersection, no_runs, normalise, runs_of_mask
from writewatch.tracker.backend import Harvest, RangeRefusedError
from writewatch.tracker.pageset import PageValues

#: Read and hashed at a time: what is read is still in the cache when it is hashed.
_BLOCK_BYTES: Final = 1 << 18

Digest = Callable[[bytes], bytes]


def _blake2b(page: bytes) -> bytes:
    return hashlib.blake2b(page, digest_size=8, usedforsecurity=False).digest()


def best_digest() -> tuple[str, Digest]:
    """Name and function of the fastest 64-bit digest at hand."""
    try:
        import xxhash
    except ImportError:
        return "BLAKE2b", _blake2b
    return "XXH3", xxhash.xxh3_64_digest


class ContentHash:
    """Compares digests of pages."""

    name = "content-hash"

    def __init__(self, calls: KernelCalls) -> None:
        self._calls = calls
        self._page_size = calls.page_size
        self.digest_name, self._digest = best_digest()
        self._digests = PageValues(no_runs())

    def adjust(self, wanted: Runs) -> None:
        """Hash what is new; keep the digests of what stays."""
        before = self._digests
        new = difference(wanted, before.pages)
        if len(blind := self._unreadable_in(new)):
            span = f"[{blind[0, 0] * self._page_size:#x}, {blind[0, 1] * self._page_size:#x})"
            raise RangeRefusedError(f"{span} cannot be read, so it cannot be hashed", (self.name,))
        self._digests = PageValues(wanted)
        try:
            for first, last, values in self._digests.parts(new):
                values[:] = self._hash(first, last)
        except BaseException:
            self._digests = before
            raise
        kept = intersection(wanted, before.pages)
        for (_, _, old), (_, _, now) in zip(before.parts(kept), self._digests.parts(kept), strict=True):
            now[:] = old

    def units(self, spans: Runs) -> list[Runs]:
        """All that was asked, in one part."""
        return [spans] if len(spans) else []

    def harvest(self, unit: Runs) -> Harvest:
        """Hash, compare, remember."""
        blind = self._unreadable_in(unit)
        changed = [no_runs()]
        for first, last, digests in self._digests.parts(difference(unit, blind)):
            fresh = self._hash(first, last)
            changed.append(runs_of_mask(fresh != digests) + first)
            digests[:] = fresh
        return Harvest(normalise(np.concatenate(changed)), blind)

    def has_written(self, spans: Runs) -> bool:
        """Stops at the first block with a page that differs."""
        block = _BLOCK_BYTES // self._page_size or 1
        if len(self._unreadable_in(spans)):
            return True
        return any(
            (self._hash(at, min(at + block, last)) != digests[at - first : at - first + block]).any()
            for first, last, digests in self._digests.parts(spans)
            for at in range(first, last, block)
        )

    def abandon(self) -> None:
        """Nothing was inherited but memory."""

    def close(self) -> None:
        """Forget the digests."""
        self._digests = PageValues(no_runs())

    def _hash(self, first: int, last: int) -> NDArray[np.uint64]:
        """(last - first,) digests of a page run."""
        size, digest = self._page_size, self._digest
        parts = []
        for at in range(first * size, last * size, _BLOCK_BYTES):
            block = self._calls.load(at, min(_BLOCK_BYTES, last * size - at))
            parts += [digest(block[i : i + size]) for i in range(0, len(block), size)]
        return np.frombuffer(b"".join(parts), np.uint64)

    def _unreadable_in(self, unit: Runs) -> Runs:
        """What of a unit has no readable mapping: reading it would end the process."""
        try:
            vmas = self._calls.vmas(None)
        except OSError:
            return no_runs()  # no /proc here: the buffers were mapped when they were handed in
        runs = [
            (vma.start // self._page_size, vma.end // self._page_size) for vma in vmas if vma.perms[0] == "r"
        ]
        readable = normalise(np.array(runs, np.int64).reshape(-1, 2))
        return difference(unit, intersection(unit, readable))
