"""What backs shared and file memory: files with a page cache, and the open descriptions that refer to them.

Four kinds: shmem (memfd, tmpfs, shared anonymous memory), regular files of a disk filesystem, hugetlbfs, and
memfd_secret.
A regular file keeps what was written back, so that a clean page can be dropped and read again; shmem pages
that are swapped out leave their swap slot in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from writewatch.model.frames import Content

SHMEM: Final = "shmem"
REGULAR: Final = "regular"
HUGETLB: Final = "hugetlb"
SECRETMEM: Final = "secretmem"

F_SEAL_SHRINK: Final = 0x02
F_SEAL_GROW: Final = 0x04
F_SEAL_WRITE: Final = 0x08
F_SEAL_FUTURE_WRITE: Final = 0x10


@dataclass(slots=True, eq=False)
class File:
    """One inode and its page cache.

    Attributes:
        kind: ``SHMEM``, ``REGULAR``, ``HUGETLB`` or ``SECRETMEM``.
        inode: Its number.
        name: What ``/proc/PID/maps`` prints.
        size: i_size, in bytes.
        unit: Bytes that one page of the cache holds: a base page, for hugetlbfs a huge page.
        pages: Index -> frame (hugetlbfs: the first of its frames). The cache holds one reference.
        slots: Index -> swap slot, for shmem pages that were swapped out.
        huge: Indices of the first pages of huge folios (shmem).
        disk: Index -> content as written back (regular files).
        dirty: Indices of cached pages that differ from the disk (regular files).
        reclaiming: Indices of cached pages that reclaim passed over because they were dirty (PG_reclaim, which is also
            PG_readahead: a fault of a neighbour does not map them).
        reserved: Indices of huge pages that are promised to this file (hugetlbfs).
        seals: ``F_SEAL_*`` of a memfd.
    """

    kind: str
    inode: int
    name: str
    unit: int
    size: int = 0
    pages: dict[int, int] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    huge: set[int] = field(default_factory=set)
    disk: dict[int, Content] = field(default_factory=dict)
    dirty: set[int] = field(default_factory=set)
    reclaiming: set[int] = field(default_factory=set)
    reserved: set[int] = field(default_factory=set)
    seals: int = 0

    def holds(self, index: int) -> bool:
        """Whether a page of this index exists below i_size."""
        return index * self.unit < self.size


@dataclass(slots=True, eq=False)
class OpenFile:
    """An open file description: a file and how it was opened."""

    file: File
    writable: bool = True
