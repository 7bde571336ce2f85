"""Scans that notice when a range is not ours any more: unmapped, mapped anew, unregistered by somebody.

Three guards tell. Every scan has CHECK_WPASYNC, so a VMA that is not registered is EPERM and not silence. A hole in the
range is no error to the scan, so msync(2) looks for one (it walks VMAs only, 0.3 µs). And a range that failed either
is searched VMA by VMA: what is registered has its report, the rest is missing.
"""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MS_ASYNC
from writewatch.kernel.pagemap import Pagemap, PartialScanError
from writewatch.kernel.written import page_runs
from writewatch.pages import Runs, complement, no_runs, normalise, union
from writewatch.tracker.ranges import mapped_runs


class GuardedScan:
    """Scans for written pages. Every answer is two sets of runs: written pages, and pages that are not registered.

    Args:
        calls: What to ask.
        pagemap: Of this process.
    """

    def __init__(self, calls: KernelCalls, pagemap: Pagemap) -> None:
        self._calls = calls
        self._pagemap = pagemap
        self._page_size = calls.page_size

    def scan(self, runs: Runs, *, protect: bool) -> tuple[Runs, Runs]:
        """Of some registered ranges.

        Args:
            runs: Page runs, ascending.
            protect: Protect again what is written.

        Raises:
            OSError: A call failed. Part of the report may be lost.
        """
        written: list[Runs] = []
        missing: list[Runs] = []
        while len(runs):
            runs = self._scan_until_refused(runs, protect, written, missing)
        return joined(written), joined(missing)

    def first_written(self, first: int, last: int) -> tuple[Runs, Runs]:
        """The first written page of a run; protects nothing. Where part of the run is missing, perhaps more."""
        if not self.is_mapped(first, last):
            return self._piece_by_piece(first, last, protect=False)
        try:
            return self._pagemap.written(first, last, max_pages=1).runs(), no_runs()
        except PartialScanError as error:
            return self.after_refusal(error, first, last, protect=False)

    def is_mapped(self, first: int, last: int) -> bool:
        """Whether a run has no hole. With MS_ASYNC Linux does nothing but walk the VMAs."""
        try:
            self._calls.msync(first * self._page_size, (last - first) * self._page_size, MS_ASYNC)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            return False
        return True

    def after_refusal(
        self, error: PartialScanError, first: int, last: int, *, protect: bool
    ) -> tuple[Runs, Runs]:
        """The answer to a scan that met memory which is not registered; what it had reported is part of it."""
        if error.errno != errno.EPERM:
            raise error
        found, missing = self._piece_by_piece(first, last, protect=protect)
        return union(self._pages(error.regions), found), missing

    def _scan_until_refused(
        self, runs: Runs, protect: bool, written: list[Runs], missing: list[Runs]
    ) -> Runs:
        """Scan runs in one go, as far as all is well and then the one where it is not; what is left of them."""
        at = self._n_whole(runs)
        try:
            written.append(self._pagemap.written_of(runs[:at].tolist(), protect=protect).runs())
            if at == len(runs):
                return runs[at:]
            found, lost = self._piece_by_piece(int(runs[at, 0]), int(runs[at, 1]), protect=protect)
        except PartialScanError as error:
            at = int(np.searchsorted(runs[:, 1], error.at // self._page_size, side="right"))
            found, lost = self.after_refusal(error, int(runs[at, 0]), int(runs[at, 1]), protect=protect)
        written.append(found)
        missing.append(lost)
        return runs[at + 1 :]

    def _n_whole(self, runs: Runs) -> int:
        """How many of some runs have no hole before one that has: usually told by one look at all of them."""
        if self.is_mapped(int(runs[0, 0]), int(runs[-1, 1])):
            return len(runs)
        for i, run in enumerate(runs.tolist()):
            if not self.is_mapped(*run):
                return i
        return len(runs)

    def _piece_by_piece(self, first: int, last: int, *, protect: bool) -> tuple[Runs, Runs]:
        """A run that is not wholly registered: by VMA, so that each has its own answer."""
        pieces = mapped_runs(self._calls, first, last)
        written: list[Runs] = []
        missing = [complement(normalise(pieces), first, last)]
        for piece in pieces.tolist():
            try:
                written.append(self._pagemap.written(*piece, protect=protect).runs())
            except PartialScanError as error:
                written.append(self._pages(error.regions))
                missing.append(np.array([piece], np.int64))
        return joined(written), joined(missing)

    def _pages(self, regions: NDArray[np.void]) -> Runs:
        return page_runs(regions.view(np.uint64).reshape(-1, 3), self._page_size)


def joined(parts: list[Runs]) -> Runs:
    """All runs of several sets, sorted and joined."""
    return normalise(np.concatenate([no_runs(), *parts]))
