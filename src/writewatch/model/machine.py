"""The machine: memory, swap, the pool of huge pages, settings, and the processes on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from writewatch.model import pte as p
from writewatch.model.counters import Counters
from writewatch.model.files import HUGETLB, File
from writewatch.model.frames import ANON, CACHE, RESERVED, Frames
from writewatch.model.swap import Swap

if TYPE_CHECKING:
    from writewatch.model.mm import Mm
    from writewatch.model.tasks import Task

_KNOWN_PAGE_SIZES: Final = (4096, 65536)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a machine is booted with.

    Attributes:
        page_size: Base page, 4 KiB or 64 KiB.
        huge_page_size: What one PMD maps; also the size of hugetlb pages.
        thp: ``/sys/kernel/mm/transparent_hugepage/enabled``.
        shmem_thp: ``shmem_enabled`` beside it.
        use_zero_page: Whether a read fault may map the huge zero page.
        hugetlb_pages: ``vm.nr_hugepages``.
        swap_pages: Base pages of swap.
        soft_dirty: CONFIG_MEM_SOFT_DIRTY.
        memory_failure: CONFIG_MEMORY_FAILURE.
        fault_around_bytes: Window that a read fault of a file maps at once.
        read_around_bytes: What a fault reads from disk around a page of a regular file that is not cached.
        privileged: Whether processes have CAP_SYS_PTRACE and CAP_SYS_ADMIN.
        strict: Refuse to un-protect through an asynchronous context, as the review of the first patch asked.
            Linux accepts it.
    """

    page_size: int = 4096
    huge_page_size: int = 2 << 20
    thp: Literal["always", "madvise", "never"] = "madvise"
    shmem_thp: Literal["always", "advise", "never"] = "advise"
    use_zero_page: bool = True
    hugetlb_pages: int = 64
    swap_pages: int = 16384
    soft_dirty: bool = False
    memory_failure: bool = False
    fault_around_bytes: int = 65536
    read_around_bytes: int = 131072
    privileged: bool = True
    strict: bool = False

    def __post_init__(self) -> None:
        if self.page_size not in _KNOWN_PAGE_SIZES:
            raise ValueError(f"page size {self.page_size} is not one of {_KNOWN_PAGE_SIZES}")
        if self.huge_page_size % self.page_size or self.huge_page_size & self.huge_page_size - 1:
            raise ValueError(f"huge page size {self.huge_page_size} is not a power of two of base pages")


class Machine:
    """One computer. Everything on it happens in one thread of Python, one step at a time.

    Attributes:
        settings: As booted.
        frames: Physical memory.
        swap: The swap area.
        counters: What the kernel counted.
        mms: Every mm that is alive.
        files: Every file there has been.
        processes: Process id -> process.
        tasks: Threads that were started and whose end nobody has seen yet.
        thread_id: Of the thread that is running now.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.page_size = self.settings.page_size
        self.page_shift: int = self.page_size.bit_length() - 1
        self.huge_page_size = self.settings.huge_page_size
        self.pages_per_huge: int = self.huge_page_size // self.page_size
        self.frames = Frames(self.page_size)
        self.zero_pfn = self.frames.allocate(RESERVED)
        self._huge_zero_pfn: int | None = None
        self.swap = Swap(self.frames, self.settings.swap_pages)
        self.counters = Counters()
        self.mms: list[Mm] = []
        self.files: list[File] = []
        self.processes: dict[int, Any] = {}
        self.tasks: list[Task] = []
        self.thread_id = 0
        self.n_huge_free = self.settings.hugetlb_pages
        self.n_huge_reserved = 0
        self._next_inode = 1000
        self._next_id = 1000
        self._next_anon_vma = 1
        #: Flags that pte_mkdirty() sets.
        self.dirtied: int = p.DIRTY | (p.SOFT_DIRTY if self.settings.soft_dirty else 0)

    def run_ready(self) -> None:
        """Let every thread that can go on do so; at the end of each call that may have woken one."""
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            if not task.settle():
                self.tasks.append(task)

    @property
    def huge_zero_pfn(self) -> int:
        """The first frame of the huge zero page, made when it is first needed."""
        if self._huge_zero_pfn is None:
            self._huge_zero_pfn = self.frames.allocate_run(RESERVED, self.pages_per_huge)
        return self._huge_zero_pfn

    # ---- numbers ---------------------------------------------------------------------------------

    def new_id(self) -> int:
        """A process or thread id."""
        self._next_id += 1
        return self._next_id

    def new_anon_vma(self) -> int:
        """A family of anonymous pages."""
        self._next_anon_vma += 1
        return self._next_anon_vma

    def new_file(self, kind: str, name: str, size: int = 0) -> File:
        """A file of zeros."""
        self._next_inode += 1
        unit = self.huge_page_size if kind == HUGETLB else self.page_size
        file = File(kind, self._next_inode, name, unit, size)
        self.files.append(file)
        return file

    def holders(self) -> Counter[int]:
        """Frame -> how many hold it that do not map it: page caches and the swap cache."""
        held = Counter(self.swap.cached())
        for file in self.files:
            n = self.pages_per_huge if file.kind == HUGETLB else 1
            for pfn in file.pages.values():
                held.update(range(pfn, pfn + n))
        return held

    # ---- hugetlb ---------------------------------------------------------------------------------

    def reserve_huge(self, n_pages: int) -> bool:
        """Promise huge pages to a mapping; False when there are not enough."""
        # Compare mm/hugetlb.c:hugetlb_acct_memory().
        if n_pages > self.n_huge_free - self.n_huge_reserved:
            return False
        self.n_huge_reserved += n_pages
        return True

    def take_huge(self, *, anonymous: bool, reserved: bool) -> int | None:
        """The first frame of a zeroed huge page of the pool, or None."""
        # Compare mm/hugetlb.c:alloc_hugetlb_folio().
        available = self.n_huge_free if reserved else self.n_huge_free - self.n_huge_reserved
        if available <= 0:
            return None
        self.n_huge_free -= 1
        self.n_huge_reserved -= reserved
        return self.frames.allocate_run(ANON if anonymous else CACHE, self.pages_per_huge)

    def return_huge(self) -> None:
        """A huge page is back in the pool."""
        self.n_huge_free += 1
