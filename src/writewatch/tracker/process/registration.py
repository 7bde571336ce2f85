"""Keeping every mapping of another process registered, though it maps and unmaps as it likes.

Registering is idempotent and cheap, so it is done anew before every scan: what brk, mmap, mremap or mprotect brought
since is tracked from then on. One call takes a whole group of mappings; one that fails changed nothing and is
repeated in halves, down to the mapping at fault:

* EINVAL: gone since ``maps`` was read (then it is left to the next time), or of a kind that Linux does not register;
* EPERM: no VM_MAYWRITE, nobody can write through it;
* EBUSY: registered with another userfaultfd, of the program itself or of another watcher;
* ENOMEM: the mm is gone; if it is not, splitting would exceed ``vm.max_map_count``.

What was refused is tried again each time, alone: the reason may have gone.

Truth: ``userfaultfd_register()`` in ``fs/userfaultfd.c``.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.kernel.maps import parse_maps
from writewatch.kernel.userfaultfd import Userfaultfd
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

    def renew(self, layout: Layout) -> Registered:
        """Register everything that is there.

        Raises:
            MmGoneError: There is nothing any more.
        """
        failed: dict[Vma, int] = {}
        for group in self.groups_to_try(layout):
            self._register(group, failed)
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

    def _register(self, group: Sequence[Vma], failed: dict[Vma, int]) -> None:
        """One call for the group; in halves when it is refused."""
        number = self._try(group[0].start, group[-1].end)
        if not number:
            return
        if len(group) == 1:
            failed[group[0]] = number
            return
        middle = len(group) // 2
        self._register(group[:middle], failed)
        self._register(group[middle:], failed)

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

    def foreign_within(self, groups: Sequence[Sequence[Vma]]) -> list[Vma]:
        """Mappings inside the groups that somebody else has registered since; none in nearly every round."""
        busy = [g for g in groups if self._try(g[0].start, g[-1].end) == errno.EBUSY]
        if not busy:
            return []
        now = parse_maps(self._files.read_maps())
        inside = [
            vma for vma in now for group in busy if vma.start < group[-1].end and group[0].start < vma.end
        ]
        return [vma for vma in inside if self._try(vma.start, vma.end) == errno.EBUSY]

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
