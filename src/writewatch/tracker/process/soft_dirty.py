"""Watching a process by soft-dirty bits: bit 55 of ``/proc/PID/pagemap``, for kernels without WP_ASYNC.

Writing 4 to ``/proc/PID/clear_refs`` clears the bit of every page of the process and protects it; the first write
sets it again. The target need not do anything. What is wrong with it, and what is done about it:

* Reading the bits and clearing them are two steps, and the target is not stopped. A write between the two sets a
  bit that nobody has read. It takes a fault, though, and the kernel counts the faults of a process: when the count
  did not move from before the reading until after the clearing, nothing was lost; when it did, all that holds data
  in writable mappings is assumed written. A busy process is hardly ever quiet for so long: use another backend for
  it. What came to hold data in between, such as a new mapping, lost its bit too: it is assumed at the next look.
* The bits are the whole process's. Another program that clears them (CRIU does) blinds us, and we disturb it. Nothing
  tells; a note says so in every report.
* A page that is given back loses its bit with its content: what held data and does not any more is discarded.
* Linux keeps no bit for hugetlb: such mappings are not tracked.
* New mappings count as dirty as a whole. Over-reporting only: it is never exact.

Truth: ``clear_refs_write()`` in ``fs/proc/task_mmu.c``; Documentation/admin-guide/mm/soft-dirty.rst.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import numpy as np

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.pagemap import CLEAR_REFS_SOFT_DIRTY, PM_SOFT_DIRTY
from writewatch.kernel.maps import read_smaps
from writewatch.pages import Runs, difference, intersection, no_runs, union
from writewatch.tracker.process.backend import Sighting
from writewatch.tracker.process.entries import blocks, is_of_a_file, is_there, joined, pages_where
from writewatch.tracker.process.layout import Layout
from writewatch.tracker.process.procfiles import MmGoneError, ProcFiles
from writewatch.tracker.process.registration import NOT_OF_THE_KIND

_NOT_QUIET: Final = (
    "the process took faults while its bits were read and cleared: all that it may write is assumed"
)
_HUGETLB: Final = "hugetlb memory has no soft-dirty bits: not tracked"
#: Fields of ``/proc/PID/stat`` after the name: minor and major faults.
_MINFLT, _MAJFLT = 7, 9

NOTE: Final = (
    "soft-dirty bits are the whole process's: another program that clears them (CRIU does) hides writes from us, "
    "and we from it"
)


class SoftDirtyProcess:
    """Soft-dirty bits of another process.

    Args:
        files: Of the target; borrowed.
        calls: What to ask.
    """

    name = "soft-dirty"

    def __init__(self, files: ProcFiles, calls: KernelCalls) -> None:
        self._files = files
        self._calls = calls
        self._page_size = calls.page_size
        self._layout = Layout(b"", (), calls.page_size)
        self._sighting = Sighting(self._layout, exact=False)
        self._held = no_runs()
        self._hugetlb: dict[Vma, str] = {}

    @property
    def sighting(self) -> Sighting:
        """What waits to be accepted."""
        return self._sighting

    def accept(self) -> None:
        """Forget what was delivered."""
        self._sighting = Sighting(self._layout, exact=False)

    def n_faults_so_far(self) -> int:
        """0: telling takes reading every entry, which is most of what a look costs."""
        return 0

    def close(self) -> None:
        """Leave the bits as they are: they are nobody's."""

    abandon = close

    def start(self, *, report: bool) -> None:
        """Clear the bits; what is there already is reported as assumed, or not at all."""
        self.look()
        before = self.sighting
        self.accept()
        if report:
            self._sighting = replace(before, written=no_runs(), assumed=self._held)

    def look(self) -> None:
        """Read, clear, and see whether anything slipped in between."""
        began, at_ns = time.perf_counter_ns(), time.monotonic_ns()
        layout = self._read_layout()
        faults = self._faults()
        private = union(layout.anonymous, layout.private_files)
        dirty, held = self._read(layout, private)
        # Known before it is cleared: an exception from here on finds it in the next report.
        self._note(dirty, held, private, layout)
        self._calls.clear_refs(self._files.pid, CLEAR_REFS_SOFT_DIRTY)
        if not self._files.is_alive():
            raise MmGoneError
        quiet = self._faults() == faults
        lost = no_runs() if quiet else intersection(held, self._writable(layout))
        waiting = self._sighting
        self._sighting = replace(
            waiting,
            assumed=union(waiting.assumed, lost),
            notes=waiting.notes if quiet else (*waiting.notes, _NOT_QUIET),
            n_faults=waiting.n_faults + int(dirty.size and (dirty[:, 1] - dirty[:, 0]).sum()),
            at_ns=at_ns,
            scan_ns=waiting.scan_ns + time.perf_counter_ns() - began,
        )
        self._held = held

    def _note(self, dirty: Runs, held: Runs, private: Runs, layout: Layout) -> None:
        waiting = self._sighting
        gone, came = difference(self._held, held), difference(held, union(self._held, dirty))
        self._sighting = replace(
            waiting,
            layout=layout,
            written=union(waiting.written, dirty),
            # Of shared memory: not mapped any more, and whether it was written before is not told.
            assumed=union(union(waiting.assumed, came), intersection(gone, layout.shared)),
            discarded=union(waiting.discarded, intersection(gone, private)),
            untracked=dict.fromkeys(layout.left_out, NOT_OF_THE_KIND) | self._hugetlb,
        )
        self._layout = layout

    def _read_layout(self) -> Layout:
        text = self._files.read_maps()
        if text == self._layout.text:
            return self._layout
        layout = Layout.of(text, self._page_size)
        if any(vma.is_file for vma in set(layout.candidates) - set(self._layout.candidates)):
            entries = read_smaps(self._files.view)
            self._hugetlb = {e.vma: _HUGETLB for e in entries if e.kernel_page_size > self._page_size}
        return replace(layout, excluded=frozenset(vma.start for vma in self._hugetlb))

    def _read(self, layout: Layout, private: Runs) -> tuple[Runs, Runs]:
        """Pages that hold data and have the bit, and all that hold data."""
        dirty: list[Runs] = []
        held: list[Runs] = []
        for runs, is_private in ((private, True), (layout.shared, False)):
            for first, entries in blocks(self._files.pagemap, runs, self._page_size):
                own = is_there(entries)
                if is_private:
                    own &= ~is_of_a_file(entries)
                dirty.append(pages_where(own & (entries & np.uint64(PM_SOFT_DIRTY) != 0), first))
                held.append(pages_where(own, first))
        return joined(dirty), joined(held)

    @staticmethod
    def _writable(layout: Layout) -> Runs:
        return layout.runs(vma for vma in layout.candidates if vma.is_writable)

    def _faults(self) -> int:
        """Faults of the whole process so far; one counts before the write that took it completes."""
        try:
            with open(f"/proc/{self._files.pid}/stat", "rb", buffering=0) as file:
                fields = file.readall().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError) as error:
            raise MmGoneError from error
        return int(fields[_MINFLT]) + int(fields[_MAJFLT])
