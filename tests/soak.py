"""Writers against collectors, for as long as asked: ``python -m tests.soak --seconds 600 --backend uffd-wp``.

Four threads write to memory of several kinds, in user mode and by system calls, and drop pages, while this thread
collects. It keeps a **shadow**: a copy that is updated from reported pages alone. Whenever the writers rest, a last
collect must make the shadow equal to the memory, byte for byte; a page that was missed stays different. Then, with
nobody else writing, a known set of pages is written, and what is reported, less what is said to be assumed, must
be that set.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import writewatch as ww
from writewatch.abi.mman import (
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_REMOVE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
)
from writewatch.kernel.default import default_calls
from writewatch.tracker.select import BACKENDS, known, lacking

PAGE = mmap.PAGESIZE
N_WRITERS = 4
BATCH = 1000
Memory = NDArray[np.uint8]


class MissedError(AssertionError):
    """A changed page was not reported, or a page was reported that nobody wrote."""


@dataclass
class Region:
    """Memory of one kind, its shadow, and its tracker; how its content is dropped (``MADV_*``)."""

    kind: str
    memory: Memory
    tracker: ww.Tracker
    drop: int
    shadow: Memory = field(init=False)

    def __post_init__(self) -> None:
        self.shadow = self.memory.copy()

    @property
    def n_pages(self) -> int:
        return len(self.memory) // PAGE

    def catch_up(self) -> int:
        """Collect, and copy what was reported; returns how many pages that were."""
        pages = self.tracker.collect().pages(self.memory)
        self.shadow.reshape(-1, PAGE)[pages] = self.memory.reshape(-1, PAGE)[pages]
        return len(pages)

    def check_shadow(self) -> None:
        different = np.flatnonzero((self.memory != self.shadow).reshape(-1, PAGE).any(axis=1))
        if len(different):
            raise MissedError(
                f"{self.kind}: {len(different)} changed pages were missed, first {different[0]}"
            )

    def check_exact(self, rng: np.random.Generator) -> None:
        """Write a known set of pages, alone; compare what is reported with it."""
        pages = np.unique(rng.integers(0, self.n_pages, rng.integers(1, 200)))
        self.memory[pages * PAGE + 5] += 1
        dirty = self.tracker.collect()
        reported = dirty.pages(self.memory)
        missed = np.setdiff1d(pages, reported)
        if len(missed):
            raise MissedError(
                f"{self.kind}: {len(missed)} pages written alone were missed, first {missed[0]}"
            )
        if self.tracker.backend in EXACT:
            first = self.memory.ctypes.data // PAGE
            assumed = [np.arange(a // PAGE - first, b // PAGE - first) for a, b, _ in dirty.assumed.tolist()]
            extra = np.setdiff1d(reported, np.concatenate([pages, *assumed]))
            if len(extra):
                raise MissedError(
                    f"{self.kind}: {len(extra)} pages reported that nobody wrote, first {extra[0]}"
                )
        self.shadow.reshape(-1, PAGE)[reported] = self.memory.reshape(-1, PAGE)[reported]
        self.check_shadow()


#: Backends that report nothing but what was written.
EXACT = frozenset({"uffd-wp", "uffd-wp-sync", "content-hash"})


class Soak:
    """One run.

    Args:
        backend: Which one.
        seed: Makes the same writers.
        megabytes: Of each kind of memory.
    """

    def __init__(self, backend: str, seed: int, megabytes: int) -> None:
        self.backend = backend
        self.seeds = np.random.SeedSequence(seed)
        self.rng = np.random.default_rng(self.seeds.spawn(1)[0])
        self.length = megabytes << 20
        self.n_writes = self.n_collects = self.n_pages = self.n_rounds = 0
        self._files = tempfile.TemporaryFile()  # noqa: SIM115  # closed by run()
        self._files.write(self.rng.bytes(1 << 20))
        self._files.flush()
        self._lock = threading.Lock()

    def run(self, is_enough: Callable[[Soak], bool]) -> None:
        """Rounds until it is enough."""
        with self._files, _regions(self.backend, self.length) as regions:
            while not is_enough(self):
                self._round(regions)

    def _round(self, regions: list[Region]) -> None:
        stop = threading.Event()
        writers = [
            threading.Thread(target=self._write, args=(regions, np.random.default_rng(seed)))
            for seed in self.seeds.spawn(N_WRITERS)
        ]
        for thread in writers:
            thread.start()
        while any(thread.is_alive() for thread in writers):
            for region in regions:
                self.n_pages += region.catch_up()
                self.n_collects += 1
        for thread in writers:
            thread.join()
        stop.set()
        for region in regions:
            self.n_pages += region.catch_up()
            region.check_shadow()
            region.check_exact(self.rng)
        _grow(regions, self.backend, self.length)
        self.n_rounds += 1

    # ---- writers ---------------------------------------------------------------------------------

    def _write(self, regions: list[Region], rng: np.random.Generator) -> None:
        """One writer's share of a round."""
        ways = (
            self._scattered,
            self._scattered,
            self._strided,
            self._from_file,
            self._from_socket,
            self._drop,
        )
        done = 0
        for _ in range(30):
            region = regions[rng.integers(len(regions))]
            done += ways[rng.integers(len(ways))](region, rng)
        with self._lock:
            self.n_writes += done

    def _scattered(self, region: Region, rng: np.random.Generator) -> int:
        region.memory[rng.integers(0, len(region.memory), BATCH)] = rng.integers(256)
        return BATCH

    def _strided(self, region: Region, rng: np.random.Generator) -> int:
        """A store a page, in one C loop that gives up the interpreter lock: it really runs beside a scan."""
        step = PAGE * int(rng.integers(1, 4))
        part = region.memory[int(rng.integers(PAGE)) :: step]
        np.add(part, 1, out=part)
        return len(part)

    def _from_file(self, region: Region, rng: np.random.Generator) -> int:
        """read(2) and readv(2) straight into the memory."""
        at, length = self._place(region, rng)
        view = region.memory.data
        return os.preadv(self._files.fileno(), [view[at : at + length]], int(rng.integers(1 << 18)))

    def _from_socket(self, region: Region, rng: np.random.Generator) -> int:
        at, length = self._place(region, rng)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(rng.bytes(min(length, 1 << 14)))
            return ours.recv_into(region.memory.data[at : at + length])

    def _drop(self, region: Region, rng: np.random.Generator) -> int:
        """Drop some pages: their content becomes zero."""
        if rng.integers(4):
            return self._scattered(region, rng)
        at, length = self._place(region, rng)
        at, length = at // PAGE * PAGE, max(length // PAGE, 1) * PAGE
        default_calls().madvise(region.memory.ctypes.data + at, length, region.drop)
        return length // PAGE

    @staticmethod
    def _place(region: Region, rng: np.random.Generator) -> tuple[int, int]:
        length = int(rng.integers(1, 32 * PAGE))
        return int(rng.integers(0, len(region.memory) - length)), length


# ---- memory --------------------------------------------------------------------------------------


@contextmanager
def _regions(backend: str, length: int) -> Iterator[list[Region]]:
    calls = default_calls()
    regions: list[Region] = []

    def add(kind: str, flags: int, advice: int | None, size: int, *, drop: int = MADV_DONTNEED) -> None:
        start = calls.mmap(0, length, PROT_READ | PROT_WRITE, flags)
        if size < length:
            calls.munmap(start + size, length - size)  # room to grow into
        if advice is not None:
            try:
                calls.madvise(start, size, advice)
            except OSError:  # a kernel without transparent huge pages: that kind is missing here
                calls.munmap(start, size)
                return
        memory = _array(start, size)
        memory[:: PAGE * 2] = 1
        regions.append(_tracked(kind, memory, backend, drop))

    try:
        add("4 KiB pages", MAP_PRIVATE | MAP_ANONYMOUS, MADV_NOHUGEPAGE, length)
        add("huge pages", MAP_PRIVATE | MAP_ANONYMOUS, MADV_HUGEPAGE, length)
        add("shared", MAP_SHARED | MAP_ANONYMOUS, None, length, drop=MADV_REMOVE)
        add("growing", MAP_PRIVATE | MAP_ANONYMOUS, MADV_NOHUGEPAGE, length // 4)
        yield regions
    finally:
        for region in regions:
            region.tracker.close()
            calls.munmap(region.memory.ctypes.data, len(region.memory))


def _array(start: int, size: int) -> Memory:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))


def _tracked(kind: str, memory: Memory, backend: str, drop: int) -> Region:
    return Region(kind, memory, ww.track(memory, backend=backend), drop)


def _grow(regions: list[Region], backend: str, length: int) -> None:
    """Let the growing region grow in place, as long as there is room; the new part gets a tracker with it."""
    old = regions[-1]
    size = len(old.memory)
    if old.kind != "growing" or size >= length:
        return
    start = old.memory.ctypes.data
    try:
        default_calls().mremap(start, size, size + length // 8, 0)
    except OSError:
        return  # something else was mapped behind it meanwhile
    grown = _tracked("growing", _array(start, size + length // 8), backend, old.drop)
    regions[-1] = grown
    old.tracker.close()


# ---- command line --------------------------------------------------------------------------------


def main() -> int:
    """Run for a time and a number of writes; say how much was done. Exit status 1 when a page was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60, help="at least so long, for each backend")
    parser.add_argument("--writes", type=float, default=0, help="and at least so many writes")
    parser.add_argument("--backend", action="append", choices=list(BACKENDS), help="default: all that work")
    parser.add_argument("--megabytes", type=int, default=16, help="of each kind of memory")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    for backend in options.backend or [name for name in BACKENDS if _works(name)]:
        soak = Soak(backend, options.seed, options.megabytes)
        try:
            soak.run(_for_at_least(options.seconds, options.writes))
        except MissedError as error:
            print(f"{backend}: seed {options.seed}, round {soak.n_rounds}: {error}", file=sys.stderr)
            return 1
        print(
            f"{backend}: {soak.n_writes} writes by {N_WRITERS} threads, {soak.n_collects} collects, "
            f"{soak.n_pages} pages reported, {soak.n_rounds} full comparisons: none missed"
            f"{', none too many' * (backend in EXACT)}",
            flush=True,
        )
    return 0


def _for_at_least(seconds: float, n_writes: float) -> Callable[[Soak], bool]:
    end = time.monotonic() + seconds
    return lambda soak: time.monotonic() > end and soak.n_writes >= n_writes


def _works(backend: str) -> bool:
    return lacking(backend, known(default_calls())) is None


if __name__ == "__main__":
    sys.exit(main())
