"""VMAs: ranges of one mm with the same flags and backing; how they split and when they merge.

Registration with userfaultfd is part of a VMA's identity: context and modes split VMAs and keep them apart.

Truth: include/linux/mm.h (``VM_*``), mm/vma.c.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from writewatch.model.files import REGULAR, SHMEM, File

if TYPE_CHECKING:
    from writewatch.model.uffd import Context

VM_READ: Final = 1 << 0
VM_WRITE: Final = 1 << 1
VM_EXEC: Final = 1 << 2
VM_SHARED: Final = 1 << 3
VM_MAYREAD: Final = 1 << 4
VM_MAYWRITE: Final = 1 << 5
VM_MAYEXEC: Final = 1 << 6
VM_MAYSHARE: Final = 1 << 7  # MAP_SHARED, even of a file that was opened read-only
VM_PFNMAP: Final = 1 << 8  # vdso and vvar: pages that no struct page stands for
VM_LOCKED: Final = 1 << 9
VM_DONTCOPY: Final = 1 << 10
VM_DONTEXPAND: Final = 1 << 11
VM_NORESERVE: Final = 1 << 12
VM_HUGETLB: Final = 1 << 13
VM_WIPEONFORK: Final = 1 << 14
VM_SOFTDIRTY: Final = 1 << 15
VM_HUGEPAGE: Final = 1 << 16
VM_NOHUGEPAGE: Final = 1 << 17
VM_DROPPABLE: Final = 1 << 18
VM_UFFD_MISSING: Final = 1 << 19
VM_UFFD_WP: Final = 1 << 20
VM_UFFD_MINOR: Final = 1 << 21
VM_SEQ_READ: Final = 1 << 22
VM_RAND_READ: Final = 1 << 23
VM_SHADOW_STACK: Final = 1 << 24
VM_MERGEABLE: Final = 1 << 25
VM_ACCOUNT: Final = 1 << 26  # charged against the commit limit

VM_UFFD: Final = VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR
VM_ACCESS: Final = VM_READ | VM_WRITE | VM_EXEC
#: VMAs that never merge.
VM_SPECIAL: Final = VM_PFNMAP | VM_DONTEXPAND

#: ``VmFlags`` of ``/proc/PID/smaps``.
SMAPS_NAMES: Final[dict[int, str]] = {
    VM_READ: "rd",
    VM_WRITE: "wr",
    VM_EXEC: "ex",
    VM_SHARED: "sh",
    VM_MAYREAD: "mr",
    VM_MAYWRITE: "mw",
    VM_MAYEXEC: "me",
    VM_MAYSHARE: "ms",
    VM_PFNMAP: "pf",
    VM_LOCKED: "lo",
    VM_SEQ_READ: "sr",
    VM_RAND_READ: "rr",
    VM_DONTCOPY: "dc",
    VM_DONTEXPAND: "de",
    VM_NORESERVE: "nr",
    VM_HUGETLB: "ht",
    VM_WIPEONFORK: "wf",
    VM_SOFTDIRTY: "sd",
    VM_HUGEPAGE: "hg",
    VM_NOHUGEPAGE: "nh",
    VM_DROPPABLE: "dp",
    VM_UFFD_MISSING: "um",
    VM_UFFD_WP: "uw",
    VM_UFFD_MINOR: "ui",
    VM_SHADOW_STACK: "ss",
    VM_MERGEABLE: "mg",
    VM_ACCOUNT: "ac",
}


@dataclass(slots=True, eq=False)
class Vma:
    """One ``vm_area_struct``.

    Attributes:
        start, end: ``[start, end)`` in bytes, page-aligned.
        flags: ``VM_*``.
        file: What backs it; None for private anonymous memory.
        pgoff: Place of ``start`` in the file, in base pages; for anonymous memory the page number that it was
            mapped at first, which mremap keeps, so that moved memory merges only with its old neighbours.
        context: The userfaultfd it is registered with.
        anon_vma: Number of the family that its anonymous pages belong to; None before the first of them.
        name: What ``/proc/PID/maps`` prints for a VMA without a file.
        forked: It is a forked child's copy with anonymous pages of both: its family is not shared any further.
        reserved: Indices of huge pages promised to a private hugetlb mapping; shared by the parts of a split one.
    """

    start: int
    end: int
    flags: int
    file: File | None
    pgoff: int
    context: Context | None = None
    anon_vma: int | None = None
    name: str = ""
    forked: bool = False
    reserved: set[int] = field(default_factory=set)

    @property
    def is_anonymous(self) -> bool:
        """vma_is_anonymous(): no file, so faults are served with zeroed memory."""
        return self.file is None

    @property
    def is_hugetlb(self) -> bool:
        """is_vm_hugetlb_page()."""
        return bool(self.flags & VM_HUGETLB)

    @property
    def is_shmem(self) -> bool:
        """vma_is_shmem()."""
        return self.file is not None and self.file.kind == SHMEM

    @property
    def is_regular(self) -> bool:
        """Whether a file of a disk filesystem backs it, which wants to hear of first writes."""
        return self.file is not None and self.file.kind == REGULAR

    @property
    def is_shared(self) -> bool:
        """Whether stores go to the file: ``VM_SHARED`` or ``VM_MAYSHARE``."""
        return bool(self.flags & (VM_SHARED | VM_MAYSHARE))

    @property
    def uffd_wp(self) -> bool:
        """userfaultfd_wp()."""
        return bool(self.flags & VM_UFFD_WP)

    @property
    def wp_async(self) -> bool:
        """userfaultfd_wp_async(): registered for WP with a context that resolves write faults itself."""
        return self.context is not None and self.context.is_async and bool(self.flags & VM_UFFD_WP)

    def file_index(self, addr: int, page_shift: int) -> int:
        """linear_page_index(): which page of the file an address shows."""
        return (addr - self.start >> page_shift) + self.pgoff

    def covers(self, start: int, end: int) -> bool:
        """Whether all of a range is inside."""
        return self.start <= start and end <= self.end

    def can_merge(self, after: Vma, page_shift: int) -> bool:
        """Whether the VMA that follows this one without a gap may become part of it."""
        # Compare mm/vma.c:can_vma_merge_after(), is_mergeable_vma(), is_mergeable_anon_vma().
        return (
            self.end == after.start
            and not (self.flags ^ after.flags) & ~VM_SOFTDIRTY
            and not self.flags & VM_SPECIAL
            and self.file is after.file
            and self.context is after.context
            and self.name == after.name
            and after.pgoff == self.file_index(after.start, page_shift)
            and self._may_share_family(after)
        )

    def _may_share_family(self, other: Vma) -> bool:
        if self.anon_vma is None:
            return not other.forked
        return self.anon_vma == other.anon_vma or (other.anon_vma is None and not self.forked)


class VmaList:
    """The VMAs of one mm, ascending and disjoint."""

    def __init__(self, page_shift: int) -> None:
        self._page_shift = page_shift
        self._starts: list[int] = []
        self._vmas: list[Vma] = []

    def __iter__(self) -> Iterator[Vma]:
        return iter(tuple(self._vmas))

    def __len__(self) -> int:
        return len(self._vmas)

    def find(self, addr: int) -> Vma | None:
        """The VMA that holds an address."""
        at = bisect_right(self._starts, addr) - 1
        return self._vmas[at] if at >= 0 and addr < self._vmas[at].end else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """The VMAs with a part in ``[start, end)``, ascending."""
        low = bisect_right(self._starts, start)
        if low and self._vmas[low - 1].end > start:
            low -= 1
        return self._vmas[low : bisect_left(self._starts, end, low)]

    def insert(self, vma: Vma) -> None:
        """Add a VMA. Preconditions: nothing overlaps it."""
        at = bisect_left(self._starts, vma.start)
        assert not self.overlapping(vma.start, vma.end), f"{vma} overlaps another VMA"
        self._starts.insert(at, vma.start)
        self._vmas.insert(at, vma)

    def remove(self, vma: Vma) -> None:
        """Take a VMA out."""
        at = bisect_left(self._starts, vma.start)
        assert self._vmas[at] is vma
        del self._starts[at], self._vmas[at]

    def split(self, vma: Vma, addr: int) -> Vma:
        """Cut a VMA in two; returns the upper part. Preconditions: the address is inside."""
        # Compare mm/vma.c:__split_vma().
        assert vma.start < addr < vma.end
        upper = replace(vma, start=addr, pgoff=vma.file_index(addr, self._page_shift))
        vma.end = addr
        self.insert(upper)
        return upper

    def merge_around(self, start: int, end: int) -> None:
        """Join VMAs that meet at the ends of a range or inside it, where they may merge."""
        # Compare mm/vma.c:vma_merge_existing_range().
        at = max(bisect_right(self._starts, start - 1) - 1, 0)
        while at + 1 < len(self._vmas) and self._vmas[at + 1].start <= end:
            if self._vmas[at].can_merge(self._vmas[at + 1], self._page_shift):
                self._absorb(at)
            else:
                at += 1

    def _absorb(self, at: int) -> None:
        lower, upper = self._vmas[at], self._vmas[at + 1]
        lower.end = upper.end
        lower.flags |= upper.flags & VM_SOFTDIRTY
        if lower.anon_vma is None:
            lower.anon_vma, lower.forked = upper.anon_vma, upper.forked
        del self._starts[at + 1], self._vmas[at + 1]

    def __contains__(self, vma: Vma) -> bool:
        at = bisect_left(self._starts, vma.start)
        return at < len(self._vmas) and self._vmas[at] is vma


def clone(vma: Vma) -> Vma:
    """A copy of a VMA for another place or another mm; what is promised to the original is not promised to it."""
    return replace(vma, reserved=set())
