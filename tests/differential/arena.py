"""The arena, a fixed piece of the address space that is the same on both sides, and what an operation in it comes to.

An operation is a tuple, its name first; places are page numbers in the arena. An outcome is plain data too: the errno
or the signal, or the value and every output field.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

from tests.conformance.world import MemorySignal
from tests.differential import masks
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

Operation = tuple[Any, ...]
Outcome = tuple[Any, ...]

BASE: Final = 0x1000_0000_0000
PAGE: Final = 4096
PER_HUGE: Final = 512
#: Three parts, each starting at a huge page: small pages, transparent huge pages, hugetlbfs.
SMALL_PAGES: Final = 1024
HUGE_START: Final = 1024
HUGETLB_START: Final = 2048
ARENA_PAGES: Final = 3584

ELSEWHERE: Final = BASE + (1 << 40)
FILE_FLAGS: Final = {"memfd": 0, "hugetlb": mman.MFD_HUGETLB}


def address(page: int) -> int:
    """Of a page of the arena."""
    return BASE + page * PAGE


def span(page: int, n_pages: int) -> uf.UffdioRange:
    """Of pages of the arena."""
    return uf.UffdioRange(address(page), n_pages * PAGE)


def attempt(perform: Callable[[], Any]) -> Outcome:
    """What comes of a call: ("ok", value), ("errno", name) or ("signal", name, code, address)."""
    try:
        return ("ok", perform())
    except OSError as failure:
        return ("errno", errno.errorcode.get(failure.errno or 0, str(failure.errno)))
    except MemorySignal as caught:
        return masks.signal(caught)


def as_call(operation: Operation) -> tuple[str, tuple[Any, ...]]:
    """The one call of ``KernelCalls`` that an operation that may wait is made of."""
    name, page, *rest = operation
    at = address(page)
    if name == "store":
        return "store", (at, bytes(rest))
    if name == "load":
        return "load", (at, 1)
    if name == "unmap":
        return "munmap", (at, rest[0] * PAGE)
    if name == "madvise":
        return "madvise", (at, rest[0] * PAGE, rest[1])
    assert name == "mremap"
    return "mremap", (at, rest[0] * PAGE, rest[1] * PAGE, rest[2], address(rest[3]))
