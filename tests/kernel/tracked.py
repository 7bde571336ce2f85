"""Pages under asynchronous write-protection, without a tracker: for tests of the scan itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import writewatch as ww
from writewatch.abi.calls import KernelCalls
from writewatch.abi.pagemap import PAGE_IS_WRITTEN
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC


class Tracked:
    """Pages registered for asynchronous write-protection, all of them protected."""

    def __init__(self, calls: KernelCalls, start: int, n_pages: int) -> None:
        self.calls, self.start, self.n_pages = calls, start, n_pages
        self.page = calls.page_size
        self.end = start + n_pages * self.page
        self.uffd = ww.Userfaultfd(UFFD_FEATURE_WP_ASYNC)
        self.uffd.register(start, n_pages * self.page, wp=True)
        self.uffd.write_protect(start, n_pages * self.page)

    def write(self, pages: Any) -> None:
        for number in pages:
            self.calls.store(self.start + int(number) * self.page, b"\1")

    def numbers(self, regions: NDArray[np.void]) -> list[int]:
        """Page numbers in regions, in the order in which these come."""
        return [
            (at - self.start) // self.page
            for first, last, _ in regions.tolist()
            for at in range(first, last, self.page)
        ]

    def close(self) -> None:
        self.uffd.close()


def protecting_scan(pagemap: ww.Pagemap, memory: Tracked, **options: int) -> NDArray[np.void]:
    return pagemap.scan(
        memory.start,
        memory.end,
        mask=PAGE_IS_WRITTEN,
        write_protect=True,
        check_wp_async=True,
        **options,
    )


@contextmanager
def tracked_memory(calls: KernelCalls, memory: Callable[..., int]) -> Iterator[Callable[[int], Tracked]]:
    """A function that makes some tracked pages; all are given up at the end."""
    made: list[Tracked] = []

    def track(n_pages: int) -> Tracked:
        made.append(Tracked(calls, memory(n_pages), n_pages))
        return made[-1]

    yield track
    for one in made:
        one.close()
