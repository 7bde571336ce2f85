"""Programs for ``explore``: writers, collectors and what else may run beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.model.worlds import GET_AND_PROTECT, Area
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import PAGE_REGION
from writewatch.model import pte as p
from writewatch.model.exploration import Scenario
from writewatch.model.waits import Steps


class Saving:
    """A collector that saves what was written, and the claim that it holds at every moment.

    The claim: a page that is clean, and not waiting to be copied, is equal to its saved copy. Otherwise a write was
    lost: no later collection will report it. While a collection is under way nothing is claimed.
    """

    def __init__(self, n_pages: int) -> None:
        self.area = Area(n_pages)
        self.area.fill(0)
        self.fd = self.area.armed()
        self.notes: dict[str, Any] = {"saved": [0] * n_pages, "to_copy": {}, "collecting": {}}

    def scenario(self, **tasks: Steps[Any]) -> Scenario:
        return Scenario(self.area.calls.machine, dict(tasks), self.notes, self.lost, self.lost)

    def lost(self) -> str:
        if any(self.notes["collecting"].values()):
            return ""
        waiting = {page for pages in self.notes["to_copy"].values() for page in pages}
        for page, saved in enumerate(self.notes["saved"]):
            clean = self.area.entry(page) & p.UFFD_WP and page not in waiting
            if clean and saved != self.content(page):
                return "a write was lost"
        return ""

    def content(self, page: int) -> int:
        entry, frames = self.area.entry(page), self.area.calls.machine.frames
        return frames.read(p.number(entry), 0, 1)[0] if entry & p.PRESENT else 0

    # ---- tasks -----------------------------------------------------------------------------------

    def writer(self, pages: Sequence[int], value: int) -> Steps[None]:
        for page in pages:
            yield from self.area.calls.steps("store", self.area.at(page), bytes([value]))

    def _scan(self, flags: int) -> Steps[list[int]]:
        vec = np.zeros(16, PAGE_REGION)
        call = self.area.calls.steps("pagemap_scan", self.area.pagemap, self.area.request(flags), vec)
        n_regions = yield from call
        self.area.vec[:16] = vec
        return self.area.pages_of(n_regions)

    def _copy(self, name: str) -> Steps[None]:
        waiting = self.notes["to_copy"]
        while waiting[name]:
            page = waiting[name][0]
            data = yield from self.area.calls.steps("load", self.area.at(page), 1)
            self.notes["saved"][page] = data[0]
            waiting[name] = waiting[name][1:]

    def collector(self, rounds: int = 1, name: str = "one walk") -> Steps[None]:
        """Report and protect in one walk, then copy."""
        for _ in range(rounds):
            self.notes["collecting"][name] = True
            self.notes["to_copy"][name] = yield from self._scan(GET_AND_PROTECT)
            self.notes["collecting"][name] = False
            yield from self._copy(name)

    def split_collector(self, name: str = "two calls") -> Steps[None]:
        """Report, then protect by a second call: what soft-dirty and its like have to do."""
        self.notes["collecting"][name] = True
        pages = yield from self._scan(0)
        argument = uf.UffdioWriteprotect(self.area.span(), uf.UFFDIO_WRITEPROTECT_MODE_WP)
        yield from self.area.calls.steps("uffdio", self.fd, uf.UFFDIO_WRITEPROTECT, argument)
        self.notes["to_copy"][name] = pages
        self.notes["collecting"][name] = False
        yield from self._copy(name)

    def dropper(self, page: int) -> Steps[None]:
        yield from self.area.calls.steps("madvise", self.area.at(page), self.area.page, mman.MADV_DONTNEED)

    def forker(self) -> Steps[None]:
        child = yield from self.area.calls.steps("fork")
        yield from child.steps("store", self.area.at(0), b"\x63")
        child.exit()


def served(n_pages: int, n_writers: int = 1) -> Scenario:
    """A synchronous context: writers share the pages, and a handler un-protects what it hears of."""
    area = Area(n_pages)
    area.fill(0)
    fd = area.context(0, flags=0)
    area.register(fd)
    area.protect(fd)

    def writer(first: int) -> Steps[None]:
        for page in range(first, n_pages, n_writers):
            yield from area.calls.steps("store", area.at(page), b"\x07")

    def handler() -> Steps[None]:
        for _ in range(n_pages):
            data = yield from area.calls.steps("read_messages", fd, 1)
            address = int(np.frombuffer(data, uf.UFFD_MSG)["arg"][0][1])
            argument = uf.UffdioWriteprotect(uf.UffdioRange(address, area.page), 0)
            yield from area.calls.steps("uffdio", fd, uf.UFFDIO_WRITEPROTECT, argument)

    def stored() -> str:
        return "" if all(area.byte(page) == 7 for page in range(n_pages)) else "a store is missing"

    writers = {f"writer {first}": writer(first) for first in range(n_writers)}
    return Scenario(area.calls.machine, {**writers, "handler": handler()}, finally_=stored)


def forgotten(n_pages: int) -> Scenario:
    """The same without a handler: the writer sleeps for ever."""
    scenario = served(n_pages)
    del scenario.tasks["handler"]
    return scenario
