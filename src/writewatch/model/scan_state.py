"""One PAGEMAP_SCAN on its way: the request, the regions found so far, and the limits.

Truth: fs/proc/task_mmu.c:pagemap_scan_output(), pagemap_scan_push_range(), pagemap_scan_backout_range().
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import PAGE_IS_FILE, PAGE_REGION, PM_SCAN_WP_MATCHING
from writewatch.model.mm import Mm

CALL: Final = "PAGEMAP_SCAN"
REGION_BYTES: Final = 24
Region: TypeAlias = tuple[int, int, int]
TAKEN_BACK: Final[Region] = (0, 0, 0)


class Writer(Protocol):
    """Takes regions out of the kernel."""

    def __call__(self, first: int, regions: list[Region]) -> None:
        """Write regions to the vec, from that index on; EFAULT when it cannot be written."""
        ...


def memory_writer(copy_to_user: Callable[[int, bytes], None], vec: int) -> Writer:
    """Regions go to simulated memory, where a vec of the program's own may lie."""

    def write(first: int, regions: list[Region]) -> None:
        copy_to_user(vec + first * REGION_BYTES, np.array(regions, PAGE_REGION).tobytes())

    return write


def array_writer(vec: NDArray[np.void]) -> Writer:
    """Regions go to an array outside simulated memory."""

    def write(first: int, regions: list[Region]) -> None:
        vec[first : first + len(regions)] = np.array(regions, PAGE_REGION)

    return write


class Stop(Exception):
    """-ENOSPC: a limit was reached; ``walk_end`` is set."""


@dataclass(slots=True)
class Scan:
    """``struct pagemap_scan_private``."""

    mm: Mm
    flags: int
    mask: int
    anyof: int
    inverted: int
    returned: int
    end: int
    vec_left: int
    max_pages: int
    buffer_size: int
    has_vec: bool
    buffer: list[Region] = field(default_factory=list)
    walk_end: int = 0
    found_pages: int = 0
    vma_category: int = 0

    @property
    def protects(self) -> bool:
        """PM_SCAN_WP_MATCHING."""
        return bool(self.flags & PM_SCAN_WP_MATCHING)

    @property
    def wants_file(self) -> bool:
        """Whether FILE is worth finding out."""
        return bool((self.mask | self.anyof | self.returned) & PAGE_IS_FILE)

    def matches(self, categories: int) -> bool:
        """pagemap_scan_is_interesting_page()."""
        categories ^= self.inverted
        return categories & self.mask == self.mask and (not self.anyof or bool(categories & self.anyof))


# ---- output --------------------------------------------------------------------------------------


def output(scan: Scan, categories: int, start: int, end: int) -> tuple[int, bool]:
    """Report ``[start, end)`` as far as limits allow.

    Returns:
        The end of what was reported, and whether a limit stops the walk.
    """
    # Compare fs/proc/task_mmu.c:pagemap_scan_output().
    if not scan.has_vec:
        return end, False
    shift, full = scan.mm.machine.page_shift, False
    too_many = scan.found_pages + (end - start >> shift) - scan.max_pages
    if too_many > 0:
        end -= too_many << shift
        full = True
    if end > start and not _push(scan, categories & scan.returned, start, end):
        end = start
        full = True
    scan.found_pages += end - start >> shift
    if full:
        scan.walk_end = end
    return end, full


def _push(scan: Scan, categories: int, start: int, end: int) -> bool:
    # Compare fs/proc/task_mmu.c:pagemap_scan_push_range().
    last_start, last_end, last_categories = scan.buffer[-1] if scan.buffer else TAKEN_BACK
    if (last_end, last_categories) == (start, categories):
        scan.buffer[-1] = last_start, end, categories
    elif scan.buffer and not last_end:
        scan.buffer[-1] = start, end, categories
    elif len(scan.buffer) < scan.buffer_size:
        scan.buffer.append((start, end, categories))
    else:
        return False
    return True


def take_back(scan: Scan, start: int, end: int) -> None:
    """Report the last ``[start, end)`` after all not."""
    # Compare fs/proc/task_mmu.c:pagemap_scan_backout_range().
    if not scan.has_vec:
        return
    last_start, _, categories = scan.buffer[-1]
    # What is taken back whole leaves its place empty: the next region starts there, not joined to the one before.
    scan.buffer[-1] = TAKEN_BACK if last_start == start else (last_start, start, categories)
    scan.found_pages -= end - start >> scan.mm.machine.page_shift
