"""The door around a tracker: memory that a test writes to by itself, and an independent full comparison.

One class serves both kernels: it asks a ``KernelCalls`` for a mapping and stores through it. What changed is found
by comparing every page with a copy, which owes nothing to any backend.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import writewatch as ww
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MADV_DONTNEED, MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from writewatch.kernel.default import default_calls
from writewatch.tracker.select import BACKENDS, known, lacking

#: Every backend on the running kernel; on the model those that do not need a process of their own.
PLACES = [("linux", name) for name in BACKENDS] + [
    ("model", name) for name in BACKENDS if name != "uffd-wp-sync"
]


def calls_of(kernel: str) -> KernelCalls:
    """The running kernel, or a new machine of the model."""
    if kernel == "linux":
        return default_calls()
    try:
        model: KernelCalls = importlib.import_module("writewatch.model.calls").ModelCalls()
    except (ImportError, AttributeError) as error:
        pytest.skip(f"needs writewatch.model: {error}")
    return model


def require(calls: KernelCalls, backend: str) -> None:
    """Skip, by name and with the reason, where a backend does not work."""
    item = lacking(backend, known(calls))
    if item is not None:
        pytest.skip(f"{backend} needs {item.name}: {item.detail}")


class Memory:
    """Some pages of private anonymous memory."""

    def __init__(self, calls: KernelCalls, n_pages: int, *, populated: bool = True) -> None:
        self.calls = calls
        self.page_size = calls.page_size
        self.n_pages = n_pages
        self.length = n_pages * self.page_size
        self.start = calls.mmap(0, self.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        self._counter = 0
        if populated:
            for page in range(n_pages):
                self.write(page)
        self.copy = self.content()

    @property
    def span(self) -> ww.AddrRange:
        return ww.AddrRange(self.start, self.start + self.length)

    def part(self, first: int, last: int) -> ww.AddrRange:
        return ww.AddrRange(self.start + first * self.page_size, self.start + last * self.page_size)

    def write(self, page: int, offset: int = 7) -> None:
        """Store a value that this byte never had before in a row."""
        self._counter = self._counter % 255 + 1
        address = self.start + page * self.page_size + offset
        value = self._counter
        if self.calls.load(address, 1) == bytes([value]):
            value = value % 255 + 1
        self.calls.store(address, bytes([value]))

    def kernel_write(self, page: int) -> None:
        """The same by a system call."""
        address = self.start + page * self.page_size + 11
        old = self.calls.load(address, 1)[0]
        self.calls.copy_to_user(address, bytes([old % 255 + 1]))

    def drop(self, first: int, last: int) -> None:
        self.calls.madvise(
            self.start + first * self.page_size, (last - first) * self.page_size, MADV_DONTNEED
        )

    def content(self) -> list[bytes]:
        return [self.calls.load(self.start + i * self.page_size, self.page_size) for i in range(self.n_pages)]

    def changed(self) -> set[int]:
        """Pages that differ from when this was last asked."""
        now = self.content()
        different = {i for i in range(self.n_pages) if now[i] != self.copy[i]}
        self.copy = now
        return different

    def pages(self, dirty: ww.DirtySet) -> set[int]:
        """What a set reports, as page numbers of this memory."""
        return set(dirty.pages(self.span).tolist())

    def pages_of(self, dirty: ww.DirtySet, parts: list[ww.AddrRange]) -> set[int]:
        """The same of a set that is about some parts only."""
        first = self.start // self.page_size
        return {part.start // self.page_size - first + int(n) for part in parts for n in dirty.pages(part)}

    def sure(self, dirty: ww.DirtySet) -> set[int]:
        """The part of it that is not assumed."""
        first = self.start // self.page_size
        assumed: set[int] = set()
        for start, end, _ in dirty.assumed.tolist():
            assumed.update(range(start // self.page_size - first, end // self.page_size - first))
        return self.pages(dirty) - assumed

    def close(self) -> None:
        self.calls.munmap(self.start, self.length)


@contextmanager
def memory_of(calls: KernelCalls, n_pages: int, *, populated: bool = True) -> Iterator[Memory]:
    memory = Memory(calls, n_pages, populated=populated)
    try:
        yield memory
    finally:
        memory.close()
