"""Which ranges to register for a set of wanted pages, given how the process is mapped."""

from __future__ import annotations

import os
import re
import sys
from typing import Final

import numpy as np

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.kernel.maps import read_smaps
from writewatch.pages import Runs, clip, intersection, normalise

#: Gaps of up to so many pages between tracked buffers are tracked too, where they are ordinary memory. Ten
#: thousand small arrays on the heap are then one range and one scan, not ten thousand.
GAP_PAGES: Final = 16
#: With fewer runs than this there is nothing to gain.
_MANY_RUNS: Final = 8
#: A mapping in ``smaps``, its figures, each of which begins with a capital, and its flags with ``uw`` among them.
_REGISTERED: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) [^\n]*\n(?:[A-Z][^\n]*\n)*?VmFlags:[^\n]* uw\b", re.MULTILINE
)


def close_gaps(wanted: Runs, calls: KernelCalls) -> Runs:
    """The wanted pages, with small gaps of mapped private anonymous memory between them filled."""
    if len(wanted) < _MANY_RUNS:
        return wanted
    gaps = np.stack((wanted[:-1, 1], wanted[1:, 0]), axis=1)
    small = gaps[gaps[:, 1] - gaps[:, 0] <= GAP_PAGES]
    ordinary = _runs_of([vma for vma in calls.vmas(None) if _is_ordinary(vma)], calls.page_size)
    inside = intersection(small, normalise(ordinary))
    # A gap with anything else in it comes out shorter than it was, or in parts.
    filled = inside[np.isin(inside, small).all(axis=1)]
    return normalise(np.concatenate((wanted, filled)))


def _is_ordinary(vma: Vma) -> bool:
    return not vma.is_file and not vma.is_shared and vma.is_writable and vma.name in {"", "[heap]"}


def _runs_of(vmas: list[Vma], page_size: int) -> Runs:
    # Divided first: [vsyscall] lies above what int64 holds, its page number does not.
    runs = [(vma.start // page_size, vma.end // page_size) for vma in vmas]
    return np.array(runs, np.int64).reshape(-1, 2)


def files_under(calls: KernelCalls, pages: Runs) -> list[Vma]:
    """VMAs of files, shared memory or hugetlb that hold one of some pages."""
    if not len(pages):
        return []
    files = [vma for vma in calls.vmas(None) if vma.is_file]
    runs = _runs_of(files, calls.page_size)
    first = np.searchsorted(pages[:, 1], runs[:, 0], side="right")
    last = np.searchsorted(pages[:, 0], runs[:, 1], side="left")
    return [files[i] for i in np.flatnonzero(first < last).tolist()]


def mapped_runs(calls: KernelCalls, first: int, last: int) -> Runs:
    """VMAs inside a page run, cut to it, one run each: not joined where they touch."""
    runs = _runs_of(list(calls.vmas(None)), calls.page_size)
    runs = np.stack((np.maximum(runs[:, 0], first), np.minimum(runs[:, 1], last)), axis=1)
    return runs[runs[:, 0] < runs[:, 1]]


def huge_granules(calls: KernelCalls, pages: Runs) -> dict[tuple[int, int], int]:
    """Hugetlb VMAs that hold one of some pages: page run of the VMA -> pages of one of its huge pages.

    Reads ``smaps``, which takes milliseconds: ask ``files_under`` first, hugetlb is always backed by a file.
    """
    page_size = calls.page_size
    found: dict[tuple[int, int], int] = {}
    for entry in read_smaps():
        start, end = entry.vma.start // page_size, entry.vma.end // page_size
        if entry.kernel_page_size > page_size and len(clip(pages, start, end)):
            found[start, end] = entry.kernel_page_size // page_size
    return found


def registered_runs(page_size: int) -> Runs:
    """Page runs of this process that some userfaultfd has registered for write-protection."""
    with open("/proc/self/smaps", "rb", buffering=0) as file:
        found = _REGISTERED.findall(file.readall())
    runs = [(int(start, 16) // page_size, int(end, 16) // page_size) for start, end in found]
    return normalise(np.array(runs, np.int64).reshape(-1, 2))


def max_map_count() -> int:
    """How many VMAs a process may have; no limit where it is not told."""
    try:
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return sys.maxsize


def huge_page_sizes(calls: KernelCalls) -> list[int]:
    """Sizes of hugetlb pages that this machine may have, in bytes, ascending."""
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")  # hugepages-2048kB
    except OSError:
        names = []
    sizes = {int(name.removeprefix("hugepages-").removesuffix("kB")) * 1024 for name in names}
    return sorted(sizes | {calls.huge_page_size})


def round_to_granules(runs: Runs, granules: dict[tuple[int, int], int]) -> Runs:
    """The runs, with what lies in a hugetlb VMA widened to whole huge pages."""
    grown = [runs]
    for (start, end), pages in granules.items():
        inside = clip(runs, start, end)
        if len(inside):
            grown.append(np.stack((inside[:, 0] // pages * pages, -(-inside[:, 1] // pages) * pages), axis=1))
    return normalise(np.concatenate(grown)) if len(grown) > 1 else runs
