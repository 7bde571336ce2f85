"""What scripts draw, and how often: features of contexts, advice, masks of scans, weights of operations."""

from __future__ import annotations

from typing import Final

from tests.conformance.actions import ALL, ASYNC, A, G, P, W
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

#: Contexts of a script. Faults that are not resolved in place are answered by SIGBUS: no operation ever waits.
FEATURES: Final = tuple(
    uf.UFFD_FEATURE_SIGBUS | features for features in (ASYNC, ASYNC, ASYNC, 0, uf.UFFD_FEATURE_WP_UNPOPULATED)
)
#: The same where operations may wait, with events whose sender waits for their reader (not EVENT_UNMAP: a
#: mapping over another one would wait as well).
WAITING_FEATURES: Final = (
    0,
    0,
    ASYNC,
    uf.UFFD_FEATURE_WP_UNPOPULATED,
    uf.UFFD_FEATURE_EXACT_ADDRESS,
    uf.UFFD_FEATURE_EVENT_REMOVE,
    uf.UFFD_FEATURE_EVENT_REMAP,
)

#: Operations that may wait for a userfaultfd, or for the reader of an event.
WAITING: Final = frozenset({"store", "load", "unmap", "madvise", "mremap"})

ADVICE: Final = (
    mman.MADV_DONTNEED,
    mman.MADV_DONTNEED,
    mman.MADV_DONTNEED,
    mman.MADV_REMOVE,
    mman.MADV_FREE,
    mman.MADV_COLD,
    mman.MADV_POPULATE_READ,
    mman.MADV_POPULATE_WRITE,
    mman.MADV_GUARD_INSTALL,
    mman.MADV_GUARD_REMOVE,
    mman.MADV_HUGEPAGE,
    mman.MADV_NOHUGEPAGE,
    mman.MADV_COLLAPSE,
)
MASKS: Final = (W, W, W, W, 0, P, W | P, A, A | W, ALL, G)

#: More of what ends a wait, where operations wait.
WAITING_WEIGHTS: Final = {
    "wake": 8,
    "messages": 10,
    "copy": 8,
    "zeropage": 6,
    "writeprotect": 16,
    "close": 3,
}

#: Weight of each operation, and the option that it needs.
WEIGHTS: Final[dict[str, tuple[int, str]]] = {
    "file": (1, ""),
    "map": (6, ""),
    "unmap": (2, ""),
    "mprotect": (4, ""),
    "madvise": (8, ""),
    "page_out": (1, "swap"),
    "mremap": (3, ""),
    "punch": (1, ""),
    "truncate": (1, ""),
    "pwrite": (1, ""),
    "store": (22, ""),
    "load": (8, ""),
    "kernel_store": (5, ""),
    "kernel_load": (2, ""),
    "peek": (2, ""),
    "context": (2, ""),
    "close": (1, ""),
    "register": (8, ""),
    "unregister": (2, ""),
    "writeprotect": (10, ""),
    "copy": (2, ""),
    "zeropage": (1, ""),
    "continue": (1, ""),
    "poison": (1, ""),
    "move": (1, ""),
    "messages": (1, ""),
    "wake": (1, "wait"),
    "fork": (1, "fork"),
    "switch": (3, "fork"),
    "exit": (1, "fork"),
    "scan": (8, ""),
    "collect": (5, ""),
}
