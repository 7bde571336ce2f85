"""What the first write to a page costs its program, by the mechanism that notices it.

Later writes to the same page are free in all of them, until the page is protected again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from writewatch.observe.benchmark.memory import PAGE, Memory, Pattern, choose_pages
from writewatch.observe.benchmark.peers import MECHANISMS, Peers
from writewatch.observe.benchmark.timing import Effort, Spread, interleave, paired_ratio

#: Synchronous write-protection takes 50 µs a page; this many keep one run of it near 0.1 s.
N_PAGES: Final = 2048
UNTRACKED: Final = "untracked"
OURS: Final = "uffd-wp async"


@dataclass(frozen=True, slots=True)
class FirstWrite:
    """One mechanism.

    Attributes:
        mechanism: One of ``MECHANISMS``, or ``untracked``: a plain store to the same pages.
        page_ns: A first write, nanoseconds.
        times_ours: How many times an asynchronous uffd-wp write that is.
        arm_ns: Starting to watch all of the memory once, nanoseconds; for fork, the fork itself.
    """

    mechanism: str
    page_ns: Spread
    times_ours: Spread
    arm_ns: Spread


def first_writes(
    peers: Peers, memory: Memory, pattern: Pattern = "random", effort: Effort | None = None
) -> tuple[tuple[FirstWrite, ...], tuple[str, ...]]:
    """Measure every mechanism that works here, in turn, on the same pages.

    Returns:
        The mechanisms, cheapest first, and one sentence for each that the kernel refused.
    """
    n_pages = min(N_PAGES, memory.n_pages)
    pages = choose_pages(memory.n_pages, n_pages / memory.n_pages, pattern)
    arm_ns: dict[str, list[int]] = {name: [] for name in (UNTRACKED, *MECHANISMS)}
    usable, refused = _usable(peers, memory)

    def run(mechanism: str) -> int:
        memory.buffer[::PAGE] += 1  # every page is present and exclusive again, whatever ran before
        with peers.watching(mechanism, memory) as armed:
            arm_ns[mechanism].append(armed)
            return peers.touch(memory, pages)

    subjects: dict[str, Callable[[], int]] = {UNTRACKED: partial(peers.touch, memory, pages)}
    subjects |= {name: partial(run, name) for name in usable}
    taken = interleave(subjects, effort or Effort(least=3, most=9, seconds=1.5))
    baseline = taken.get(OURS) or taken[UNTRACKED]
    found = [
        FirstWrite(
            name,
            Spread.of(ns).scaled(1 / len(pages)),
            paired_ratio(ns, baseline),
            Spread.of(arm_ns[name] or [0]),
        )
        for name, ns in taken.items()
    ]
    return tuple(sorted(found, key=lambda one: one.page_ns.median)), refused


def _usable(peers: Peers, memory: Memory) -> tuple[list[str], tuple[str, ...]]:
    usable: list[str] = []
    refused: list[str] = []
    for name in MECHANISMS:
        try:
            with peers.watching(name, memory):
                usable.append(name)
        except OSError as error:
            refused.append(f"{name} is skipped: the kernel refused it ({error.strerror}).")
    return usable, tuple(refused)
