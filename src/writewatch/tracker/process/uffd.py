"""Watching another process with a userfaultfd of its mm: register everything, walk, tell and protect what was written.

Rules, each for a reason:

* Never UFFDIO_WRITEPROTECT, and never a walk that protects without PRESENT or SWAPPED: both fill holes with
  markers, and page tables for all of a sparse terabyte with them.
* The walk covers only mappings that this userfaultfd has registered. A program that tracks itself has mappings
  that look the same to PAGEMAP_SCAN, and protecting those would steal what it wants to know. One that slips in
  between is found afterwards, and what was taken from it is given back.
* A mapping that has lost its registration may hold pages that are marked as protected and are not (see
  ``registration.py``). So what is not registered is looked at before it is, and such marks are taken away after.
* What a walk has found is kept before anything else is done, and until it was handed over. Where a walk broke off
  before its report was kept, all that holds data is assumed written at the next.

No step stops the target, and none needs ptrace. A program that registers memory of its own *after* we did is refused
(EBUSY): Linux allows a mapping one userfaultfd.

Truth: ``do_pagemap_scan()`` in ``fs/proc/task_mmu.c``; ``docs/design.md``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.pagemap import PAGE_IS_WRITTEN
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_UNPOPULATED
from writewatch.errors import AttachError
from writewatch.kernel.bugs import HUGETLB_HOLE_DEADLOCK, running_release
from writewatch.kernel.maps import parse_maps, read_smaps
from writewatch.kernel.pagemap import PartialScanError
from writewatch.kernel.userfaultfd import Userfaultfd
from writewatch.pages import Runs, clip, difference, intersection, no_runs, normalise, total, union
from writewatch.tracker.process.accounting import Findings, Look, Words, clipped, findings
from writewatch.tracker.process.backend import Sighting
from writewatch.tracker.process.layout import Layout
from writewatch.tracker.process.procfiles import MmGoneError, ProcFiles
from writewatch.tracker.process.registration import (
    NOT_OF_THE_KIND,
    Registered,
    Registration,
    why_refused,
)
from writewatch.tracker.process.walking import THERE, Walk, Walker, few, pages_of
from writewatch.tracker.select import known

_FEATURES: Final = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED
_HANGS: Final = "hugetlb memory: this kernel may hang when it is scanned, so it is not tracked"


class AlreadyTrackedError(AttachError):
    """Another watcher is at work: what it does is what was asked for here, so nothing else is tried."""


@dataclass(frozen=True)
class _Kept:
    """What must change together: replaced by one assignment, so that no exception leaves half of it."""

    sighting: Sighting
    held: Runs = field(default_factory=no_runs)
    strays: Runs = field(default_factory=no_runs)
    coarse: Runs = field(default_factory=no_runs)


class UffdProcess:
    """Asynchronous write-protection of another process.

    Args:
        fd: A userfaultfd of the target, no handshake done; owned from now on, also when this raises.
        files: Of the target; borrowed.
        calls: What to ask.

    Raises:
        OSError: EINVAL, the kernel lacks WP_ASYNC.
    """

    name = "uffd-wp"

    def __init__(self, fd: int, files: ProcFiles, calls: KernelCalls) -> None:
        self._calls = calls
        self._files = files
        self._page_size = calls.page_size
        self._uffd = Userfaultfd.from_fd(fd, _FEATURES, fresh=True, calls=calls)
        try:
            self._registration = Registration(self._uffd, files, calls)
            tells_empty = known(calls).works("pte_holes") and known(calls).works("pmd_holes")
            self._walker = Walker(files.pagemap, calls.page_size, tells_empty=tells_empty)
        except BaseException:
            self._uffd.close()
            raise
        self._layout = Layout(b"", (), calls.page_size)
        self._kept = _Kept(Sighting(self._layout))
        self._fresh = no_runs()
        self._marked = no_runs()  # pages whose marks cannot be believed, until these are taken away
        self._asked_at = b""  # ``maps`` when it was asked who has registered what, while it is
        self._is_registered = False  # everything, once
        self._groups: Sequence[Sequence[Vma]] = ()  # of the last round
        self._avoid_hugetlb = HUGETLB_HOLE_DEADLOCK.affects(running_release())

    # ---- the face --------------------------------------------------------------------------------

    @property
    def sighting(self) -> Sighting:
        """What waits to be accepted."""
        return self._kept.sighting

    def accept(self) -> None:
        """Forget what was delivered."""
        self._kept = replace(self._kept, sighting=Sighting(self._layout))

    def start(self, *, report: bool) -> None:
        """The first look: protects everything; what is there already is reported as assumed, or not at all.

        Raises:
            AlreadyTrackedError: Another watcher has registered the memory.
        """
        self._layout = self._read_layout()
        if self._registration.is_taken(self._layout):
            raise AlreadyTrackedError(_already_tracked(self._uffd.fileno()), self._files.pid)
        self.look()
        before = self.sighting
        self.accept()
        if report:
            present = union(before.written, before.assumed)
            self._kept = replace(self._kept, sighting=replace(before, written=no_runs(), assumed=present))

    def look(self) -> None:
        """Register what is new, walk, keep what was found."""
        began = time.perf_counter_ns()
        doubted = self._settle_interrupted()
        before, layout = self._layout, self._read_layout()
        self._layout = layout
        registered = self._register(layout, is_changed=layout is not before)
        self._groups = registered.groups
        at_ns = time.monotonic_ns()
        try:
            expected = union(self._kept.held, self._fresh)
            self._walker.run(registered.groups, expected, thorough=bool(len(doubted)))
            self._give_back(registered.groups)
        finally:
            seen = replace(
                self.sighting,
                layout=layout,
                untracked=self._untracked(registered),
                at_ns=at_ns,
                scan_ns=self.sighting.scan_ns + time.perf_counter_ns() - began,
            )
            self._keep(seen, doubted)

    def n_faults_so_far(self) -> int:
        """Pages that held data when they were protected, and are not protected any more."""
        try:
            return total(intersection(self._walker.written(self._groups), self._kept.held))
        except PartialScanError:
            return 0  # a mapping that went away; the next look tells

    def abandon(self) -> None:
        """Close the descriptor alone: the registrations are another process's, which has it too."""
        self._uffd.close()

    def close(self) -> None:
        """Unregister what can be, then close: another process may hold a copy of the descriptor."""
        if self._uffd.closed:
            return
        with contextlib.suppress(MmGoneError, OSError), contextlib.ExitStack() as stack:
            stack.callback(self._uffd.close)
            self._registration.end(self._read_layout())

    # ---- one round -------------------------------------------------------------------------------

    def _read_layout(self) -> Layout:
        text = self._files.read_maps()
        if text == self._layout.text:
            return self._layout
        excluded = self._hugetlb_starts() if self._avoid_hugetlb else frozenset[int]()
        return Layout.of(text, self._page_size, excluded)

    def _hugetlb_starts(self) -> frozenset[int]:
        """On kernels that would hang: hugetlb mappings. ``smaps`` alone tells them, and costs milliseconds."""
        entries = read_smaps(self._files.view)
        return frozenset(entry.vma.start for entry in entries if entry.kernel_page_size > self._page_size)

    def _register(self, layout: Layout, *, is_changed: bool) -> Registered:
        """Register what is not registered; what is there of it is fresh, and marks that it bears are taken away.

        Where mappings have changed, somebody else may have registered some.
        """
        self._settle_asking(layout.text)  # that an exception ended
        self._fresh = union(self._kept.strays, self._marked)
        if not self._is_registered:
            registered = self._registration.renew(layout)
            self._is_registered = True
            return registered
        words = self._unregistered(self._registration.groups_to_try(layout))
        is_there = words[:, 2] & np.uint64(THERE) != 0
        is_marked = is_there & (words[:, 2] & np.uint64(PAGE_IS_WRITTEN) == 0)
        self._marked = union(self._marked, pages_of([words[is_marked]], self._page_size))
        self._fresh = union(self._fresh, pages_of([words[is_there]], self._page_size))
        registered = self._registration.renew(layout, pages_of([words], self._page_size))
        if len(self._marked):
            self._take_marks_away(registered.groups)
        if is_changed and self._taken_over(registered.groups):
            return self._registration.outcome(layout)
        return registered

    def _unregistered(self, groups: Sequence[Sequence[Vma]]) -> Words:
        """Regions in mappings that are not registered now: new ones, moved ones, and lost ones."""
        found = [self._walker.unregistered(group[0].start, group[-1].end) for group in groups]
        return np.concatenate([np.empty((0, 3), np.uint64), *found])

    def _take_marks_away(self, groups: Sequence[Sequence[Vma]]) -> None:
        """Make pages count as written, so that the walk protects them. What fails is left to the next round."""
        size = self._page_size
        left = no_runs()
        for vma in (vma for group in groups for vma in group):
            for first, last in few(clip(self._marked, vma.start // size, vma.end // size)).tolist():
                try:
                    self._uffd.write_protect(
                        first * size, (last - first) * size, protect=False, forge_written=True
                    )
                except OSError:
                    left = union(left, self._runs([(first * size, last * size)]))
        self._marked = left

    def _untracked(self, registered: Registered) -> dict[Vma, str]:
        refused = {vma: why_refused(number) for vma, number in registered.refused.items()}
        excluded = self._layout.excluded
        left_out = self._layout.left_out
        return refused | {vma: _HANGS if vma.start in excluded else NOT_OF_THE_KIND for vma in left_out}

    def _give_back(self, groups: Sequence[Sequence[Vma]]) -> None:
        """Mark as written again what was protected in a mapping that somebody else registered in between."""
        for vma in self._taken_over(groups):
            parts = self._walker.walk.parts
            for at, part in enumerate(parts):
                taken = clipped(part.words, vma.start, vma.end)
                for start, end, categories in taken.tolist():
                    if categories & PAGE_IS_WRITTEN:
                        self._forge_written(start, end)
                if len(taken):
                    around = [clipped(part.words, 0, vma.start), clipped(part.words, vma.end, part.end)]
                    parts[at] = replace(part, words=np.concatenate(around))

    def _taken_over(self, groups: Sequence[Sequence[Vma]]) -> list[Vma]:
        """Mappings in the groups that somebody else has registered; none in nearly every round.

        Asking registers, so only what is registered is asked for. Should a mapping have lost its registration in
        between, it has changed in ``maps`` too, and no mark in it is believed.
        """
        self._asked_at = self._files.read_maps()
        without = pages_of([self._unregistered(groups)], self._page_size)
        spans = difference(self._runs((group[0].start, group[-1].end) for group in groups), without)
        found = self._registration.foreign_within(spans * self._page_size, self._asked_at)
        self._settle_asking(self._files.read_maps())
        return found

    def _settle_asking(self, now: bytes) -> None:
        """Doubt the marks in what has changed since it was asked who has registered what."""
        if self._asked_at not in (b"", now):
            before = set(parse_maps(self._asked_at))
            changed = [(vma.start, vma.end) for vma in parse_maps(now) if vma not in before]
            self._marked = union(self._marked, self._runs(changed))
        self._asked_at = b""

    def _forge_written(self, start: int, end: int) -> None:
        # Linux asks nobody whose registration it is. ENOENT: unmapped or unregistered by now, nothing to give back.
        with contextlib.suppress(OSError):
            self._uffd.write_protect(start, end - start, protect=False, forge_written=True)

    # ---- keeping ---------------------------------------------------------------------------------

    def _settle_interrupted(self) -> Runs:
        """Account for a round that an exception ended; the pages whose report was lost with it."""
        lost = self._walker.lost_range()
        if self._walker.walk.parts:
            self._keep(self.sighting, no_runs())
        return self._runs([lost] if lost else [])

    def _keep(self, seen: Sighting, doubted: Runs) -> None:
        walk = self._walker.walk
        found = self._findings(walk, doubted)
        unscanned = intersection(self._runs(walk.doubtful), self._kept.held)
        self._kept = _Kept(
            replace(
                seen,
                written=union(seen.written, found.written),
                assumed=union(union(seen.assumed, found.assumed), unscanned),
                discarded=union(seen.discarded, found.discarded),
                exact=seen.exact and found.exact,
                notes=(*seen.notes, *walk.failures),
                n_faults=seen.n_faults + found.n_faults,
            ),
            found.held,
            found.strays,
            found.coarse,
        )
        # Were an exception to come here, the same would be kept twice: more is reported then, never less.
        self._walker.walk = Walk()

    def _findings(self, walk: Walk, doubted: Runs) -> Findings:
        parts = sorted(walk.parts, key=lambda part: part.start)
        look = Look(
            np.concatenate([np.empty((0, 3), np.uint64), *(part.words for part in parts)]),
            whole=self._runs((part.start, part.end) for part in parts if part.is_whole),
            partial=self._runs((part.start, part.end) for part in parts if not part.is_whole),
            empty=pages_of(walk.empty, self._page_size),
            fresh=self._fresh,
            doubted=doubted,
        )
        return findings(look, self._layout, self._page_size, self._kept.held, self._kept.coarse)

    def _runs(self, ranges: Iterable[tuple[int, int]]) -> Runs:
        pairs = [(start // self._page_size, end // self._page_size) for start, end in ranges]
        return normalise(np.array(pairs, np.int64).reshape(-1, 2))


def _already_tracked(fd: int) -> str:
    # On use: it is read by those alone who are refused.
    from writewatch.kernel.ptrace.holders import already_tracked

    return already_tracked(fd)
