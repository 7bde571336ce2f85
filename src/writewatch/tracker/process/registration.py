"""Keeping every mapping of another process registered, though it maps and unmaps as it likes.

Before every scan what is not registered is: what brk, mmap, mremap or mprotect brought since is tracked from then on.
One call takes a whole group of mappings; one that fails changed nothing and is repeated in halves, down to the mapping
at fault:

* EINVAL: gone since ``maps`` was read (then it is left to the next time), or of a kind that Linux does not register;
* EPERM: no VM_MAYWRITE, nobody can write through it;
* EBUSY: registered with another userfaultfd, of the program itself or of another watcher;
* ENOMEM: the mm is gone; if it is not, splitting would exceed ``vm.max_map_count``.

What was refused is tried again each time, alone: the reason may have gone.

What seems to be registered is not registered once more. Memory that moves next to a mapping of ours may become one with
it, and then Linux drops the registration of both, but leaves the protected pages of the one marked as such: stores to
them take no fault, and show nowhere. Registered again, they would look as if nothing had been written. So whoever calls
``renew`` has looked before what is not registered, and takes the marks away after.

Truth: ``userfaultfd_register()`` and ``mremap_userfaultfd_prep()`` in ``fs/userfaultfd.c``, ``copy_vma()`` in
``mm/vma.c``.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.kernel.maps import parse_maps
from writewatch.kernel.userfaultfd import Userfaultfd
from writewatch.pages import Runs, clip
from writewatch.tracker.process.layout import Layout, unbroken
from writewatch.tracker.process.procfiles import MmGoneError, ProcFiles
from writewatch.tracker.unregistering import Unregistering

#: errno -> why a mapping is not tracked, for people.
REFUSALS: Final[dict[int, str]] = {
    errno.EBUSY: "registered with another userfaultfd, of the program itself or of another watcher: not seen here",
    errno.EPERM: "cannot be written through this mapping; other writers of the file are not seen",
    errno.ENOMEM: "would be one mapping more than vm.max_map_count allows: not tracked; raise that limit",
}
#: What the names in ``maps`` tell already, and EINVAL.
NOT_OF_THE_KIND: Final = "of a kind that Linux does not register: not tracked"


#: Mappings that no other interrupts, ascending.
Groups: TypeAlias = tuple[tuple[Vma, ...], ...]


def why_refused(number: int) -> str:
    """A sentence for the errno of a refused registration."""
    return REFUSALS.get(number, NOT_OF_THE_KIND)


class Span(NamedTuple):
    """A mapping, or a part of it, in bytes."""

    vma: Vma
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Registered:
    """The outcome of one round.

    Attributes:
        groups: Mappings that are ours now, ascending, split wherever one lies between that is not.
        refused: Mappings that are not, with the errno.
    """

    groups: Groups
    refused: dict[Vma, int]


class Registration:
    """Registers the memory of a process with one userfaultfd.

    Args:
        uffd: Bound to the mm of the process.
        files: Of the same process.
        calls: What the userfaultfd asks.
    """

    def __init__(self, uffd: Userfaultfd, files: ProcFiles, calls: KernelCalls) -> None:
        self._uffd = uffd
        self._files = files
        self._unregistering = Unregistering(calls)
        self._refused: dict[Vma, int] = {}
        self._grouped: tuple[Layout, frozenset[int], Groups] | None = None  # the last answer of _groups

    def groups_to_try(self, layout: Layout) -> Groups:
        """What ``renew`` would register in one call each."""
        return self._groups(layout, self._refused)

    def _groups(self, layout: Layout, others: dict[Vma, int]) -> Groups:
        """The mappings to register, but for some, in groups that no other interrupts.

        The same tuple as the last time when nothing has changed: most rounds find the mappings as they were.
        """
        left_out = frozenset(vma.start for vma in others)
        if self._grouped is None or self._grouped[0] is not layout or self._grouped[1] != left_out:
            starts = layout.candidate_starts - left_out
            groups = tuple(tuple(group) for group in unbroken(layout.vmas, starts))
            self._grouped = layout, left_out, groups
        return self._grouped[2]

    def is_taken(self, layout: Layout) -> bool:
        """Whether another watcher is at work. It has the stack too, which a program hardly registers by itself.

        Asked before anything else is registered: what the process mapped a moment ago is that watcher's to take.
        """
        stacks = [vma for vma in layout.candidates if vma.name == "[stack]"] or list(layout.candidates)
        return all(self._try(vma.start, vma.end) == errno.EBUSY for vma in stacks)

    def renew(self, layout: Layout, only: Runs | None = None) -> Registered:
        """Register everything that is there, or of the mappings that were not refused some pages alone.

        Args:
            layout: The mappings.
            only: Pages that are not registered; None for all, whether they are or not.

        Raises:
            MmGoneError: There is nothing any more.
        """
        failed: dict[Vma, int] = {}
        for group in self.groups_to_try(layout):
            if only is None:
                self._register([Span(vma, vma.start, vma.end) for vma in group], failed)
                continue
            for spans in spans_of(group, only, layout.page_size):
                self._register(spans, failed)
        self._refused = self._judge(layout, failed)
        return Registered(self._groups(layout, self._refused | failed), dict(self._refused))

    def _judge(self, layout: Layout, failed: dict[Vma, int]) -> dict[Vma, int]:
        """Which mappings are refused: those of earlier rounds that still are, and new ones that are still there.

        ``failed`` is left with those that are gone or refused; one that is registered at the second try leaves it.
        """
        before = [vma for vma in layout.candidates if vma in self._refused] if self._refused else []
        still = set(parse_maps(self._files.read_maps())) if failed else set()
        again = [vma for vma in failed if vma in still]
        refused: dict[Vma, int] = {}
        for vma in [*before, *again]:
            number = self._try(vma.start, vma.end)
            if number:
                refused[vma] = number
            else:
                failed.pop(vma, None)
        return refused

    def _register(self, spans: Sequence[Span], failed: dict[Vma, int]) -> None:
        """One call for all; in halves when it is refused."""
        number = self._try(spans[0].start, spans[-1].end)
        if not number:
            return
        if len(spans) == 1:
            failed[spans[0].vma] = number
            return
        middle = len(spans) // 2
        self._register(spans[:middle], failed)
        self._register(spans[middle:], failed)

    def _try(self, start: int, end: int) -> int:
        """Register a range; the errno when it is refused, else 0."""
        try:
            self._uffd.register(start, end - start, wp=True)
        except OSError as error:
            if error.errno == errno.ENOMEM and not self._files.is_alive():
                raise MmGoneError from error
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EBUSY, errno.ENOMEM):
                raise
            return error.errno
        return 0

    def foreign_within(self, spans: Runs, text: bytes) -> list[Vma]:
        """Mappings that somebody else has registered, of those in ranges where all are registered; refused from now on.

        Args:
            spans: Ranges in bytes. Where nobody has registered them, they are ours afterwards.
            text: ``maps``.
        """
        busy = [(start, end) for start, end in spans.tolist() if self._try(start, end) == errno.EBUSY]
        inside = [
            vma
            for vma in (parse_maps(text) if busy else ())
            for start, end in busy
            if vma.start < end and start < vma.end
        ]
        found = [vma for vma in inside if self._try(vma.start, vma.end) == errno.EBUSY]
        self._refused |= dict.fromkeys(found, errno.EBUSY)
        return found

    def outcome(self, layout: Layout) -> Registered:
        """What ``renew`` would have said, had it known what was found foreign since."""
        return Registered(self._groups(layout, self._refused), dict(self._refused))

    def end(self, layout: Layout) -> None:
        """Unregister what is ours, mapping by mapping, and nothing that is not, nor what this kernel cannot.

        Registering once more tells what is ours: before v6.17 unregistering took a registration from its owner.
        """
        for group in self.renew(layout).groups:
            for vma in filter(self._unregistering.is_safe, group):
                self._unregister(vma)

    def _unregister(self, vma: Vma) -> None:
        try:
            self._uffd.unregister(vma.start, vma.end - vma.start)
        except OSError as error:
            # EINVAL: unmapped or replaced this moment. ENOMEM: the mm is gone, and all registrations with it.
            if error.errno not in (errno.EINVAL, errno.ENOMEM, errno.ESRCH):
                raise


def spans_of(group: Sequence[Vma], pages: Runs, page_size: int) -> list[list[Span]]:
    """The parts of mappings that some pages lie in, in lists without a hole."""
    found: list[list[Span]] = []
    wanted = clip(pages, group[0].start // page_size, group[-1].end // page_size)
    if not len(wanted):
        return found
    for vma in group:
        for first, last in clip(wanted, vma.start // page_size, vma.end // page_size).tolist():
            span = Span(vma, first * page_size, last * page_size)
            if found and found[-1][-1].end == span.start:
                found[-1].append(span)
            else:
                found.append([span])
    return found
