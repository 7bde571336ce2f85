"""The backend that design and kernel were made for: asynchronous write-protection and PAGEMAP_SCAN.

Linux protects the pages, resolves the first write to each by itself, and one scan reports which lost their
protection and protects them again, page by page under the page-table lock.

A range that turns out not to be ours any more (see ``scanning.py``) is reported wholly, registered again where that is
possible, and otherwise reported wholly by every harvest: it is never claimed clean.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Final

import numpy as np

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.mman import MADV_NOHUGEPAGE
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_UNPOPULATED
from writewatch.kernel.pagemap import Pagemap, PartialScanError
from writewatch.kernel.userfaultfd import Userfaultfd
from writewatch.pages import (
    Runs,
    clip,
    difference,
    intersection,
    no_runs,
    normalise,
    round_down,
    runs_of_mask,
    union,
)
from writewatch.tracker.backend import Harvest, RangeRefusedError
from writewatch.tracker.blindness import unseen_in_files
from writewatch.tracker.hot import HotChunks
from writewatch.tracker.own_content import OF_ITS_OWN, content_of, is_protected_swap
from writewatch.tracker.pageset import PageValues
from writewatch.tracker.ranges import (
    close_gaps,
    files_under,
    huge_granules,
    mapped_runs,
    max_map_count,
    round_to_granules,
)
from writewatch.tracker.scanning import GuardedScan, joined
from writewatch.tracker.unregistering import Unregistering
from writewatch.tracker.witness import Witnesses, is_shmem

#: The documented hint that a page is not populated costs nothing more: WP_ASYNC implies it.
_FEATURES: Final = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED

#: Ranges that are harvested as one unit. Each is a scan of its own; more at a time means that more is assumed
#: written when a scan fails.
_UNIT_RANGES: Final = 256
#: As long as no chunk was written from end to end, one harvest in so many looks whether one was.
_LEARN_EVERY: Final = 4
#: With fewer new ranges it need not be asked how many mappings the process has left.
_MANY_RANGES: Final = 1000

_REFUSALS: Final = {
    errno.EBUSY: "is registered with another userfaultfd already; a mapping can have one, so close the other",
    errno.EINVAL: "is of a kind that Linux does not register (a special mapping, or none); use ordinary memory",
    errno.EPERM: "cannot be written through this mapping (its file is sealed or read-only); map it writable",
    errno.ENOMEM: "would be one mapping more than vm.max_map_count allows; raise that limit",
}


class UffdWp:
    """Write-protection by userfaultfd, resolved by the kernel, read back by PAGEMAP_SCAN.

    Args:
        calls: What to ask.
        keep_huge_pages: False splits every transparent huge page and forbids new ones in tracked ranges, for a
            kernel that does not report one that is dropped whole (MADV_DONTNEED).
    """

    name = "uffd-wp"

    def __init__(self, calls: KernelCalls, *, keep_huge_pages: bool = True) -> None:
        self._calls = calls
        self._keep_huge_pages = keep_huge_pages
        self._page_size = calls.page_size
        self._uffd = Userfaultfd(_FEATURES, user_mode_only=True, calls=calls)
        try:
            self._pagemap = Pagemap(calls=calls)
        except BaseException:
            self._uffd.close()
            raise
        self._scan = GuardedScan(calls, self._pagemap)
        self._unregistering = Unregistering(calls)
        self._wanted = no_runs()
        self._ranges = no_runs()  # registered and protected at least once; the wanted pages and more
        self._lost = no_runs()  # of these, what is not registered any more
        self._granules: dict[tuple[int, int], int] = {}  # hugetlb VMAs met: page run -> pages of a huge page
        self._private = no_runs()  # wanted pages in private mappings of files or of hugetlb
        self._own = PageValues(no_runs(), np.uint8)  # what each of them held when last looked at
        self._witnesses = Witnesses(calls, self._pagemap)  # of wanted pages in shared memory
        self._hot = HotChunks(calls.huge_page_size // calls.page_size)
        self._n_harvests = 0
        self._plain: tuple[
            int, ...
        ] = ()  # first and last page of the only range; empty unless a harvest may be plain
        self._notices: list[str | Warning] = []  # for the next harvest to hand over

    # ---- which pages -----------------------------------------------------------------------------

    def adjust(self, wanted: Runs) -> None:
        """Register what is new and protect it; unregister what is not wanted any more."""
        # Not what is not registered yet: the other half of a huge page is, and so is what was interrupted on its way.
        added = difference(wanted, self._wanted)
        private, shared = self._learn_mappings(added)
        closed = close_gaps(wanted, self._calls)
        self._leave_mappings(difference(closed, self._ranges))
        try:
            self._adjust(closed)
        except RangeRefusedError:
            if closed is wanted:
                raise
            self._adjust(wanted)  # perhaps only a gap was refused: memory that somebody else has registered
        self._remember_own_content(intersection(union(self._private, private), wanted))
        self._witnesses.keep(wanted)
        self._notices += self._witnesses.replace(added, shared)
        self._wanted = wanted
        self._note_whether_plain()

    def _leave_mappings(self, new: Runs) -> None:
        """Refuse what would take most of the mappings that the process may still make: each range splits two."""
        if len(new) < _MANY_RANGES:
            return
        left = max_map_count() - len(self._calls.vmas(None))
        if 2 * len(new) > left // 2:
            raise RangeRefusedError(
                f"{len(new)} separate ranges would take most of the {left} mappings that vm.max_map_count still "
                "allows; raise it, or track buffers that lie together",
                (self.name,),
            )

    def _learn_mappings(self, new: Runs) -> tuple[Runs, list[Vma]]:
        """Find hugetlb mappings, whose pages are registered whole.

        Returns:
            Page runs of private mappings of files, and shared mappings of shmem, which want a witness.
        """
        files = files_under(self._calls, new)
        granules = huge_granules(self._calls, new) if files else {}
        self._granules.update(granules)
        private = [(vma.start, vma.end) for vma in files if not vma.is_shared]
        runs = np.array(private, np.int64).reshape(-1, 2) // self._page_size
        huge = {first * self._page_size for first, _ in granules}
        return normalise(runs), [vma for vma in files if is_shmem(vma) and vma.start not in huge]

    def _adjust(self, wanted: Runs) -> None:
        self._uffd.check_ours()
        target = round_to_granules(wanted, self._granules)
        added: list[tuple[int, int]] = []
        try:
            for first, last in difference(target, self._ranges).tolist():
                self._add(first, last)
                added.append((first, last))
        except BaseException:
            self._remove(added)
            raise
        gone = difference(self._ranges, target)
        self._remove(gone.tolist())
        self._lost = difference(self._lost, gone)
        self._ranges = target
        self._granules = {run: pages for run, pages in self._granules.items() if len(clip(target, *run))}

    def _remember_own_content(self, private: Runs) -> None:
        """A private page of a file or of hugetlb that is dropped keeps its protection; its content tells."""
        after = PageValues(private, np.uint8)
        after.take_over(self._own)
        for first, last, held in after.parts(difference(private, self._own.pages)):
            held[:] = content_of(self._pagemap.entries(first * self._page_size, last * self._page_size))
        self._private, self._own = private, after

    def _add(self, first: int, last: int) -> None:
        start, length = first * self._page_size, (last - first) * self._page_size
        try:
            self._uffd.register(start, length, wp=True)
        except OSError as error:
            raise self._refusal(error, first, last) from error
        try:
            if not self._keep_huge_pages:
                self._split_huge_pages(start, length)
            # Not by PAGEMAP_SCAN: that passes over slots of hugetlb that were never touched.
            self._uffd.write_protect(start, length)
        except BaseException:
            self._remove([(first, last)])
            raise

    def _split_huge_pages(self, start: int, length: int) -> None:
        """Protecting part of a huge page splits it; what is not protected yet cannot be collapsed again."""
        with contextlib.suppress(OSError):  # EINVAL: a kernel built without them, or hugetlb
            self._calls.madvise(start, length, MADV_NOHUGEPAGE)
        size = self._calls.huge_page_size
        for at in range(round_down(start, size), start + length, size):
            first = max(at, start)
            with contextlib.suppress(OSError):  # hugetlb: is not split and needs no splitting
                self._uffd.write_protect(first, self._page_size)

    def _refusal(self, error: OSError, first: int, last: int) -> Exception:
        span = f"[{first * self._page_size:#x}, {last * self._page_size:#x})"
        if error.errno in _REFUSALS:
            return RangeRefusedError(f"{span} {_REFUSALS[error.errno]}", (self.name,))
        return error

    def _remove(self, runs: list[tuple[int, int]] | list[list[int]]) -> None:
        """Unregister what can be; VMA by VMA where one that is gone or foreign would keep the others registered."""
        for run in runs:
            self._hot.forget(np.array([run], np.int64))
        if self._unregistering.is_limited:
            self._unregister_safely(np.array(runs, np.int64).reshape(-1, 2))
            return
        for first, last in runs:
            try:
                self._unregister(first, last)
            except OSError:
                for piece in mapped_runs(self._calls, first, last).tolist():
                    self._unregister_if_ours(*piece)

    def _unregister_safely(self, runs: Runs) -> None:
        """On kernels that cannot unregister every mapping: those that they can, VMA by VMA."""
        try:
            vmas = self._calls.vmas(None)
        except OSError:
            return  # no descriptor is free: which ones can be is not known, so all stay registered
        safe = [(vma.start, vma.end) for vma in vmas if self._unregistering.is_safe(vma)]
        pieces = np.array(
            [(start // self._page_size, end // self._page_size) for start, end in safe], np.int64
        )
        for piece in intersection(runs, pieces.reshape(-1, 2)).tolist():
            self._unregister_if_ours(*piece)

    def _unregister(self, first: int, last: int) -> None:
        self._uffd.unregister(first * self._page_size, (last - first) * self._page_size)

    def _unregister_if_ours(self, first: int, last: int) -> None:
        try:
            self._unregister(first, last)
        except OSError:
            # EINVAL: the VMA became somebody else's, or one that was never registered. Not ours to touch.
            return

    # ---- what was written ------------------------------------------------------------------------

    def units(self, spans: Runs) -> list[Runs]:
        """Registered ranges that hold one of the spans, a few at a time."""
        touched = self._ranges
        if len(touched) == 1:
            return [touched]
        if len(touched) > 1:
            low = np.searchsorted(spans[:, 1], touched[:, 0], side="right")
            high = np.searchsorted(spans[:, 0], touched[:, 1], side="left")
            touched = touched[low < high]
        return [touched[at : at + _UNIT_RANGES] for at in range(0, len(touched), _UNIT_RANGES)]

    def harvest(self, unit: Runs) -> Harvest:
        """Scan and protect again, in one walk; hot chunks are left alone."""
        self._n_harvests += 1
        if self._plain and self._n_harvests % _LEARN_EVERY:
            return self._harvest_plainly(unit, *self._plain)
        if len(self._lost) or self._hot.is_any:
            return self._harvest_with_exceptions(unit)
        written, lost = self._protect(unit)
        if not self._is_coarse(unit):  # there a chunk may be less than a page
            self._hot.learn(unit, written, no_runs())
        return self._answer(unit, written, lost)

    def _harvest_plainly(self, unit: Runs, first: int, last: int) -> Harvest:
        """The common case: one range, nothing special known of it. Nobody looks at the pages before the user."""
        if not self._scan.is_mapped(first, last):
            return self._answer(unit, *self._protect(unit))
        try:
            found = self._pagemap.written(first, last, protect=True)
        except PartialScanError as error:
            written, missing = self._scan.after_refusal(error, first, last, protect=True)
            return self._answer(unit, written, self._restore(missing))
        return Harvest.of(found.runs, found.regions, exact=True)

    def _note_whether_plain(self) -> None:
        """Whether the next harvest may be plain. While it is, one in a few still looks for hot chunks."""
        special = bool(len(self._lost) or len(self._private) or self._granules or self._hot.is_watching)
        special = special or self._witnesses.is_any or bool(self._notices)
        self._plain = () if special or len(self._ranges) != 1 else tuple(self._ranges[0].tolist())

    def _answer(self, unit: Runs, written: Runs, assumed: Runs) -> Harvest:
        self._note_whether_plain()
        notices, self._notices = tuple(self._notices), []
        if len(self._private):
            assumed = union(assumed, self._dropped(unit, keep=False))
        if self._witnesses.is_any:
            assumed = union(assumed, self._witnesses.harvest(unit, written))
        return Harvest(written, assumed, exact=not self._is_coarse(unit), notices=notices)

    def _dropped(self, spans: Runs, *, keep: bool) -> Runs:
        """Pages of private file mappings that had content of their own and have it no more."""
        dropped: list[Runs] = []
        for first, last, held in self._own.parts(intersection(self._private, spans)):
            entries = self._pagemap.entries(first * self._page_size, last * self._page_size)
            now = content_of(entries)
            dropped.append(runs_of_mask((held == OF_ITS_OWN) & (now != OF_ITS_OWN)) + first)
            if not keep:
                # Perhaps it is in swap and not gone: assumed changed each time, until it is there again or is not.
                perhaps = (held == OF_ITS_OWN) & is_protected_swap(entries)
                held[:] = now
                held[perhaps] = OF_ITS_OWN
        return joined(dropped)

    def _harvest_with_exceptions(self, unit: Runs) -> Harvest:
        """The same, where parts of the unit are lost, hot, or nearly hot."""
        lost = self._restore(intersection(self._lost, unit))
        hot = difference(intersection(self._hot.hot, unit), lost)
        seen, _ = self._scan.scan(self._hot.doubtful(unit), protect=False)
        left_hot = self._hot.stays_hot(seen)
        written, missing = self._protect(difference(unit, union(union(hot, left_hot), lost)))
        written = union(written, seen)
        probes = no_runs() if self._is_coarse(unit) else self._hot.learn(unit, written, left_hot)
        # Only to have them protected when the next harvest looks: what they hold now is assumed, or was seen.
        self._protect(probes)
        return self._answer(unit, written, union(hot, union(lost, missing)))

    def _protect(self, runs: Runs) -> tuple[Runs, Runs]:
        """Written pages of some runs, protected again, and what was lost, registered again where that is possible."""
        written, missing = self._scan.scan(runs, protect=True)
        return written, self._restore(missing)

    def _is_coarse(self, unit: Runs) -> bool:
        """Whether part of a unit is hugetlb, where one write makes a whole huge page written."""
        return any(len(clip(unit, *run)) for run in self._granules)

    def has_written(self, spans: Runs) -> bool:
        """Stops at the first written page."""
        if self._is_assumed(spans) or (len(self._private) and len(self._dropped(spans, keep=True))):
            return True
        if self._witnesses.is_any and self._witnesses.lost(spans):
            return True
        # Not any() of a generator: what a signal handler raises while one is closed is dropped by Python.
        for unit in self.units(spans):  # noqa: SIM110
            if self._unit_has_written(unit, spans):
                return True
        return False

    def _unit_has_written(self, unit: Runs, spans: Runs) -> bool:
        if len(unit) == 1:
            return self._range_has_written(int(unit[0, 0]), int(unit[0, 1]), spans)
        return bool(len(intersection(union(*self._scan.scan(unit, protect=False)), spans)))

    def _is_assumed(self, spans: Runs) -> bool:
        """Whether part of the spans would be reported whatever is seen."""
        if not len(self._lost) and not self._hot.is_any:
            return False
        return bool(len(intersection(union(self._hot.hot, self._lost), spans)))

    def _range_has_written(self, first: int, last: int, spans: Runs) -> bool:
        written, lost = self._scan.first_written(first, last)
        if not len(written) and not len(lost):
            return False
        if len(intersection(union(written, lost), spans)):
            return True
        # The first written page is a neighbour that shares the range: look at the wanted part alone.
        for part in clip(spans, first, last).tolist():
            written, lost = self._scan.first_written(*part)
            if len(written) or len(lost):
                return True
        return False

    def _restore(self, lost: Runs) -> Runs:
        """Try to register again what was lost; all of it is to be reported, whether that works or not."""
        if not len(lost):
            return lost
        self._uffd.check_ours()
        gaps = difference(lost, self._wanted)
        if len(gaps):  # memory that nobody wants: it was only tracked along
            self._ranges = difference(self._ranges, gaps)
            lost = difference(lost, gaps)
        for first, last in difference(lost, self._lost).tolist():
            self._notices.append(
                f"[{first * self._page_size:#x}, {last * self._page_size:#x}) was unmapped, replaced or unregistered "
                "while it was tracked; it is reported as written until it is tracked again"
            )
        self._lost = union(self._lost, lost)
        restored = [no_runs()]
        for first, last in lost.tolist():
            with contextlib.suppress(OSError, RangeRefusedError):
                self._add(first, last)
                restored.append(np.array([[first, last]], np.int64))
        self._learn_anew(joined(restored))
        return lost

    def _learn_anew(self, replaced: Runs) -> None:
        """What is mapped there now may be of another kind than before; until that is known it counts as lost."""
        if not len(replaced):
            return
        private, shared = self._learn_mappings(replaced)
        if shared or self._witnesses.is_any:
            self._notices += self._witnesses.replace(replaced, shared)
        self._notices += unseen_in_files(files_under(self._calls, replaced))
        others = difference(self._private, replaced)
        self._remember_own_content(union(others, intersection(private, replaced)))
        self._hot.forget(replaced)
        self._lost = difference(self._lost, replaced)

    # ---- end -------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Close both descriptors: they act on the parent's memory, so nothing is unregistered."""
        self._ranges = self._lost = no_runs()
        self._witnesses.abandon()
        self._uffd.close()
        self._pagemap.close()

    def close(self) -> None:
        """Unregister, then close: before v6.9 closing alone left entries protected."""
        if self._uffd.is_ours:
            # What keeps this from unregistering must not keep it from closing.
            with contextlib.suppress(OSError):
                self._remove(self._ranges.tolist())
        self._ranges = self._lost = no_runs()
        self._witnesses.close()
        self._uffd.close()
        self._pagemap.close()
