"""A process of the model with one registered area, and the few words that its tests use."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import PAGE_IS_WRITTEN, PAGE_REGION, PmScanArg
from writewatch.model.calls import ModelCalls
from writewatch.model.machine import Machine, Settings

BASE = 0x1000_0000_0000
PRIVATE = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
SHARED = mman.MAP_SHARED | mman.MAP_ANONYMOUS
RW = mman.PROT_READ | mman.PROT_WRITE
GET_AND_PROTECT = 3
ASYNC = uf.UFFD_FEATURE_WP_ASYNC
WP = uf.UFFDIO_REGISTER_MODE_WP


@dataclass
class Area:
    """Pages of a process, mapped at ``BASE`` unless said otherwise."""

    n_pages: int = 8
    flags: int = PRIVATE
    settings: Settings = field(default_factory=Settings)
    start: int = BASE
    calls: ModelCalls = field(init=False)
    pagemap: int = field(init=False)
    vec: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.calls = ModelCalls(Machine(self.settings))
        self.page = self.calls.page_size
        self.calls.mmap(self.start, self.n_pages * self.page, RW, self.flags | mman.MAP_FIXED)
        self.pagemap = self.calls.open_pagemap(None)
        self.vec = np.zeros(4096, PAGE_REGION)

    def at(self, page: int) -> int:
        return self.start + page * self.page

    def span(self, first: int = 0, last: int | None = None) -> uf.UffdioRange:
        last = self.n_pages if last is None else last
        return uf.UffdioRange(self.at(first), (last - first) * self.page)

    def context(self, features: int = ASYNC, flags: int = os.O_NONBLOCK) -> int:
        fd = self.calls.userfaultfd(flags)
        self.calls.uffdio(fd, uf.UFFDIO_API, uf.UffdioApi(uf.UFFD_API, features, 0))
        return fd

    def register(self, fd: int, mode: int = WP, first: int = 0, last: int | None = None) -> None:
        self.calls.uffdio(fd, uf.UFFDIO_REGISTER, uf.UffdioRegister(self.span(first, last), mode, 0))

    def protect(self, fd: int, first: int = 0, last: int | None = None, mode: int = 1) -> None:
        argument = uf.UffdioWriteprotect(self.span(first, last), mode)
        self.calls.uffdio(fd, uf.UFFDIO_WRITEPROTECT, argument)

    def armed(self, features: int = ASYNC) -> int:
        fd = self.context(features)
        self.register(fd)
        self.protect(fd)
        return fd

    def fill(self, value: int = 1) -> None:
        self.calls.touch(self.start + np.arange(self.n_pages) * self.page, value)

    def store(self, page: int, value: int = 1) -> None:
        self.calls.store(self.at(page), bytes([value]))

    def byte(self, page: int) -> int:
        return self.calls.load(self.at(page), 1)[0]

    def request(self, flags: int = 0) -> PmScanArg:
        return PmScanArg(
            size=96,
            flags=flags,
            start=self.start,
            end=self.at(self.n_pages),
            category_mask=PAGE_IS_WRITTEN,
            return_mask=PAGE_IS_WRITTEN,
        )

    def pages_of(self, n_regions: int) -> list[int]:
        regions = self.vec[:n_regions].tolist()
        return [
            p
            for s, e, _ in regions
            for p in range((s - self.start) // self.page, (e - self.start) // self.page)
        ]

    def written(self, flags: int = 0) -> list[int]:
        return self.pages_of(self.calls.pagemap_scan(self.pagemap, self.request(flags), self.vec))

    def collect(self) -> list[int]:
        return self.written(GET_AND_PROTECT)

    def entry(self, page: int) -> int:
        table = self.calls.mm.table
        return table.pte(self.at(page)) or table.leaf(self.at(page))

    def messages(self, fd: int) -> list[tuple[int, int, int]]:
        """(event, flags, address) of every pending message."""
        found = np.frombuffer(self.calls.read_messages(fd, 16), uf.UFFD_MSG)
        return [(int(m["event"]) & 0xFF, int(m["arg"][0]), int(m["arg"][1])) for m in found]
