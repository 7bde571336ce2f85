"""A program that does everything to its memory, against a copy: no page changes without being reported.

``WRITEWATCH_SEEDS=100`` tries as many programs.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import writewatch as ww
from tests.tracker.process.targets import PAGE, Target, reported

pytestmark = pytest.mark.kernel("uffd_wp_async")

N_SLOTS = 5
N_STEPS = 20
N_SEEDS = int(os.environ.get("WRITEWATCH_SEEDS", "2"))

_SETUP = """
import tempfile
n = {n}
arena = memory(n * {slots}, NONE, PRIVATE | ANON | NORESERVE)
file = tempfile.TemporaryFile(); file.write(os.urandom(n * P)); file.flush()
shared = os.memfd_create("chaos"); os.ftruncate(shared, n * P)
at = lambda slot: arena + slot * n * P
def fresh(slot, kind):
    flags, fd = dict(anonymous=(PRIVATE | ANON, -1), file=(PRIVATE, file.fileno()), shared=(SHARED, shared))[kind]
    memory(n, RW, flags | FIXED, fd, at(slot))
def fill(slot, pages, value):
    poke(at(slot), *pages, value=value)
def fork_and_write(slot, pages, value):
    p = os.fork()
    if not p:
        fill(slot, pages, value + 1); os._exit(0)
    fill(slot, pages, value); os.waitpid(p, 0)
for slot, kind in enumerate(["anonymous", "anonymous", "file", "shared", "anonymous"]):
    fresh(slot, kind)
libc.madvise(at(4), n * P, 14)
answer = arena
"""


class Chaos:
    """Lines of code for the child, by chance."""

    def __init__(self, seed: int, n: int) -> None:
        self._chance = random.Random(seed)
        self._n = n
        self._value = 1

    def line(self) -> str:
        does: Callable[[int], str] = self._chance.choice(
            [self._write, self._write, self._write, self._read, self._give_back, self._map_anew, self._move,
             self._protect, self._page_out, self._fork, self._grow_from_nothing]
        )  # fmt: skip
        return does(self._chance.randrange(N_SLOTS))

    def _pages(self) -> list[int]:
        return self._chance.sample(range(self._n), self._chance.randrange(1, 30))

    def _next_value(self) -> int:
        self._value = self._value % 250 + 1
        return self._value

    def _write(self, slot: int) -> str:
        return f"fill({slot}, {self._pages()}, {self._next_value()})"

    def _read(self, slot: int) -> str:
        return f"peek(at({slot}), *{self._pages()})"

    def _give_back(self, slot: int) -> str:
        first = self._chance.randrange(self._n - 8)
        return f"libc.madvise(at({slot}) + {first} * P, {self._chance.randrange(1, 8)} * P, 4)"

    def _map_anew(self, slot: int) -> str:
        # A file or shared memory in place of another mapping shows content that nobody wrote: not asked here.
        return f"fresh({slot}, 'anonymous')" if slot in (0, 1, 4) else self._write(slot)

    def _move(self, slot: int) -> str:
        return (
            "ok(libc.mremap(at(0), n * P, n * P, 3, at(1))); fresh(0, 'anonymous')"
            if slot < 2
            else self._write(slot)
        )

    def _protect(self, slot: int) -> str:
        return (
            f"libc.mprotect(at({slot}), n * P, R); libc.mprotect(at({slot}), n * P, RW); "
            f"fill({slot}, {self._pages()}, {self._next_value()})"
        )

    def _page_out(self, slot: int) -> str:
        return f"libc.madvise(at({slot}), n * P, 21)"

    def _fork(self, slot: int) -> str:
        pages = self._pages()
        # What the child writes to shared memory is not seen here, by design.
        return (
            f"fork_and_write({slot}, {pages}, {self._next_value()})" if slot != 3 else f"fill(3, {pages}, 5)"
        )

    def _grow_from_nothing(self, slot: int) -> str:
        return f"q = memory({self._n}); poke(q, 1); libc.munmap(q, {self._n} * P)"


def content(pid: int, start: int, pages: int) -> NDArray[np.uint8]:
    """(pages, PAGE) bytes of a range that is mapped."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(start)
        data = bytearray()
        while len(data) < pages * PAGE:
            data += memory.read(pages * PAGE - len(data))
    return np.frombuffer(data, np.uint8).reshape(pages, PAGE)


@pytest.mark.parametrize("n", [96, 1100], ids=["small", "large"])
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_no_page_changes_without_being_reported(target: Target, n: int, seed: int) -> None:
    start = target.run(_SETUP.format(n=n, slots=N_SLOTS))
    chaos = Chaos(seed, n)
    n_pages = n * N_SLOTS
    with ww.attach(target.pid) as tracker:
        tracker.collect()
        copy = content(target.pid, start, n_pages)
        for step in range(N_STEPS):
            lines = [chaos.line() for _ in range(chaos._chance.randrange(1, 5))]
            for line in lines:
                target.run(line)
            found = reported(tracker.collect(), start, n_pages)
            now = content(target.pid, start, n_pages)
            changed = np.flatnonzero((now != copy).any(axis=1))
            missed = sorted(set(changed.tolist()) - set(found))
            assert not missed, (step, lines)
            copy = now
