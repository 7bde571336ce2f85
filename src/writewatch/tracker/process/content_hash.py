"""Watching a process by what its memory holds: nothing is asked of the target, and all of its memory is read each time.

It finds what changed, not what was written: storing the same value is no change. Read through ``/proc/PID/mem``,
which belongs to the mm that it was opened for (process_vm_readv(2) would read the next program's memory after an
exec) and reads memory without access rights too. A page is hashed at some moment of the look; a write that lands
later changes the digest for the next one.

A page that comes to hold data is assumed written, one that ceases to is discarded. Of shared memory only what is
mapped writable is hashed: another mapping is what changes the rest.

Truth: ``mem_rw()`` in ``fs/proc/base.c``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.pages import Runs, difference, intersection, no_runs, runs_of_mask, total, union
from writewatch.tracker.content_hash import best_digest
from writewatch.tracker.pageset import PageValues
from writewatch.tracker.process.backend import Sighting
from writewatch.tracker.process.entries import blocks, is_of_a_file, is_there, joined, pages_where
from writewatch.tracker.process.layout import Layout
from writewatch.tracker.process.procfiles import MmGoneError, ProcFiles
from writewatch.tracker.process.registration import NOT_OF_THE_KIND

#: Read and hashed at a time: what is read is still in the cache when it is hashed.
_BLOCK_PAGES: Final = 64
_READ_ONLY: Final = (
    "shared and not writable now: not read; whoever writes to it does so through another mapping"
)

Digests = NDArray[np.uint64]


class HashProcess:
    """Compares digests of the pages of another process.

    Args:
        files: Of the target; borrowed.
        calls: What to ask.

    Raises:
        OSError: EACCES or EPERM without the right to trace the target.
    """

    name = "content-hash"

    def __init__(self, files: ProcFiles, calls: KernelCalls) -> None:
        self._files = files
        self._page_size = calls.page_size
        self.digest_name, self._digest = best_digest()
        self._layout = Layout(b"", (), calls.page_size)
        self._sighting = Sighting(self._layout)
        self._digests = PageValues(no_runs(), np.uint64)
        self._memory = os.open(f"/proc/{files.view}/mem", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def sighting(self) -> Sighting:
        """What waits to be accepted."""
        return self._sighting

    def accept(self) -> None:
        """Forget what was delivered."""
        self._sighting = Sighting(self._layout)

    def n_faults_so_far(self) -> int:
        """0: nothing is protected."""
        return 0

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        fd, self._memory = self._memory, -1
        if fd >= 0:
            os.close(fd)

    abandon = close

    def start(self, *, report: bool) -> None:
        """Hash everything; what is there already is reported as assumed, or not at all."""
        self.look()
        if not report:
            self.accept()

    @property
    def n_bytes(self) -> int:
        """What is read each time."""
        return total(self._digests.pages) * self._page_size

    def look(self) -> None:
        """Hash, compare, remember."""
        began, at_ns = time.perf_counter_ns(), time.monotonic_ns()
        layout = Layout.of(self._files.read_maps(), self._page_size)
        before, after = self._digests, PageValues(self._data(layout), np.uint64)
        changed, unread = self._hash_all(before, after)
        if not self._files.is_alive():
            raise MmGoneError
        new = difference(after.pages, before.pages)
        waiting = self._sighting
        gone = difference(before.pages, after.pages)
        new = union(
            new, intersection(gone, self._shared(layout))
        )  # not mapped any more; perhaps written before
        fresh = replace(
            waiting,
            layout=layout,
            written=union(waiting.written, changed),
            assumed=union(waiting.assumed, union(new, unread)),
            discarded=union(waiting.discarded, intersection(gone, self._private(layout))),
            untracked=self._untracked(layout),
            at_ns=at_ns,
            scan_ns=waiting.scan_ns + time.perf_counter_ns() - began,
        )
        # First what was found, then what it is compared with: an exception between the two reports it twice.
        self._sighting = fresh
        self._digests, self._layout = after, layout

    # ---- which pages -----------------------------------------------------------------------------

    def _data(self, layout: Layout) -> Runs:
        """Pages that hold data: the process's own, and what it has mapped of shared memory."""
        private, shared = self._private(layout), self._shared(layout)
        found = [
            pages_where(is_there(entries) & ~is_of_a_file(entries), first)
            for first, entries in blocks(self._files.pagemap, private, self._page_size)
        ]
        found += [
            pages_where(is_there(entries), first)
            for first, entries in blocks(self._files.pagemap, shared, self._page_size)
        ]
        return joined(found)

    @staticmethod
    def _private(layout: Layout) -> Runs:
        return union(layout.anonymous, layout.private_files)

    @staticmethod
    def _shared(layout: Layout) -> Runs:
        return layout.runs(vma for vma in layout.candidates if vma.is_shared and vma.is_writable)

    @staticmethod
    def _untracked(layout: Layout) -> dict[Vma, str]:
        read_only = {vma: _READ_ONLY for vma in layout.candidates if vma.is_shared and not vma.is_writable}
        return read_only | dict.fromkeys(layout.left_out, NOT_OF_THE_KIND)

    # ---- digests ---------------------------------------------------------------------------------

    def _hash_all(self, before: PageValues[np.uint64], after: PageValues[np.uint64]) -> tuple[Runs, Runs]:
        """Fill in the digests of what is there; pages that changed, and pages that could not be read."""
        after.take_over(before)
        changed: list[Runs] = []
        unread: list[Runs] = []
        for first, last, values in after.parts(after.pages):
            fresh, is_read = self._hash(first, last)
            differs = (fresh != values) & is_read
            changed.append(runs_of_mask(differs) + first)
            unread.append(runs_of_mask(~is_read) + first)
            np.copyto(values, fresh, where=is_read)
        known = intersection(joined(changed), before.pages)
        return known, intersection(joined(unread), before.pages)

    def _hash(self, first: int, last: int) -> tuple[Digests, NDArray[np.bool_]]:
        """Digests of a page run, and which pages could be read."""
        size, digest = self._page_size, self._digest
        parts: list[bytes] = []
        is_read = np.ones(last - first, np.bool_)
        for at, data in self._read(first, last):
            if not data:
                is_read[at - first] = False
                parts.append(bytes(8))
            parts += [digest(data[i : i + size]) for i in range(0, len(data), size)]
        return np.frombuffer(b"".join(parts), np.uint64), is_read

    def _read(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Page number and content, some pages at a time; nothing for a page that cannot be read."""
        at = first
        while at < last:
            n_pages = min(_BLOCK_PAGES, last - at)
            data = b""
            with contextlib.suppress(OSError):  # EIO: unmapped by now, or memory of a device
                data = os.pread(self._memory, n_pages * self._page_size, at * self._page_size)
            data = data[: len(data) // self._page_size * self._page_size]
            yield at, data
            at += max(1, len(data) // self._page_size)
