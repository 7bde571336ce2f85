"""Random scripts: sequences of operations in which names are known and places collide often.

A script is made from a seed and from nothing else; no answer is looked at. Arguments are mostly sensible,
because a refused operation explores little, and now and then not.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tests.conformance.actions import ALL, GET_AND_PROTECT, G, W
from tests.differential.arena import HUGE_START, HUGETLB_START, PER_HUGE, Operation
from tests.differential.weights import (
    ADVICE,
    FEATURES,
    MASKS,
    WAITING,
    WAITING_FEATURES,
    WAITING_WEIGHTS,
    WEIGHTS,
)
from writewatch.abi import mman

RW: Final = mman.PROT_READ | mman.PROT_WRITE

_PROLOGUE: Final = 9  # operations that every script starts with

Range = tuple[int, int]


def options_of(seed: int, available: frozenset[str]) -> frozenset[str]:
    """What a script of this seed draws: one in eight forks, one in eight has operations that wait."""
    return available | {0: {"fork"}, 1: {"wait"}}.get(seed % 8, set())


class Script:
    """Draws operations. ``options`` switch groups of them on."""

    def __init__(self, seed: int, options: frozenset[str] = frozenset({"thp", "hugetlb", "swap"})) -> None:
        self._rng = random.Random(seed)
        self._options = options
        self._contexts: list[str] = []
        self._files: dict[str, str] = {}
        self._count = 0
        self._n_processes = 1
        self._registered: list[tuple[str, int, int]] = []
        self._waits = "wait" in options
        self._features = WAITING_FEATURES if self._waits else FEATURES
        weights = {name: weight for name, (weight, need) in WEIGHTS.items() if not need or need in options}
        if self._waits:
            weights |= WAITING_WEIGHTS
        self._names, self._weights = list(weights), list(weights.values())

    def operations(self, n: int) -> list[Operation]:
        """The next n operations; the first ones of a script map memory and open a context."""
        return [self._prologue() if self._count < _PROLOGUE else self._draw() for _ in range(n)]

    def _prologue(self) -> Operation:
        self._count += 1
        steps: tuple[Callable[[], Operation], ...] = (
            lambda: ("map", 0, 32, RW, mman.MAP_PRIVATE, "", 0),
            lambda: ("map", 508, 16, RW, self._rng.choice((mman.MAP_PRIVATE, mman.MAP_SHARED)), "", 0),
            lambda: ("map", HUGE_START, 2 * PER_HUGE, RW, mman.MAP_PRIVATE, "", 0),
            lambda: ("madvise", HUGE_START, 2 * PER_HUGE, mman.MADV_HUGEPAGE),
            self._hugetlb_area,
            self.draw_file,
            self.draw_map,
            self.draw_context,
            self.draw_register,
        )
        return steps[self._count - 1]()

    def _hugetlb_area(self) -> Operation:
        if "hugetlb" not in self._options:
            return self.draw_file()
        flags = self._rng.choice((mman.MAP_PRIVATE, mman.MAP_SHARED)) | mman.MAP_HUGETLB
        return ("map", HUGETLB_START, 2 * PER_HUGE, RW, flags, "", 0)

    def _draw(self) -> Operation:
        self._count += 1
        (name,) = self._rng.choices(self._names, self._weights)
        operation: Operation = getattr(self, f"draw_{name}")()
        return ("spawn", operation) if self._waits and name in WAITING else operation

    # ---- places ----------------------------------------------------------------------------------

    def _small(self) -> Range:
        """A few pages, mostly among the first 32, now and then across a page-table border."""
        start = self._rng.choice((0, 0, 0, 508))
        page = self._rng.randrange(8 if start else 28)
        return start + page, self._rng.choice((1, 1, 2, 3, 4, 8, 16))

    def _huge(self) -> Range:
        """Whole huge pages, or a part of one or two."""
        first = HUGE_START + PER_HUGE * self._rng.randrange(2)
        if self._rng.random() < 0.6:
            return first, PER_HUGE
        return first + self._rng.randrange(PER_HUGE), self._rng.choice((1, 7, 100, 512))

    def _hugetlb(self) -> Range:
        first = HUGETLB_START + PER_HUGE * self._rng.randrange(3)
        if self._rng.random() < 0.8:
            return first, PER_HUGE * self._rng.choice((1, 1, 2))
        return first + self._rng.randrange(PER_HUGE), self._rng.choice((1, 100, 600))

    def _range(self) -> Range:
        draws = [self._small] * 6
        if "thp" in self._options:
            draws.append(self._huge)
        if "hugetlb" in self._options:
            draws.append(self._hugetlb)
        return self._rng.choice(draws)()

    def _page(self) -> int:
        page, n = self._range() if self._rng.random() < 0.6 else self._known()[1:]
        return page + self._rng.randrange(n)

    def _context(self) -> str:
        return self._rng.choice(self._contexts) if self._contexts else "none"

    def _prot(self) -> int:
        return self._rng.choice((RW, RW, RW, RW, mman.PROT_READ, mman.PROT_NONE))

    def _value(self) -> int:
        return self._rng.randrange(1, 256)

    # ---- mappings --------------------------------------------------------------------------------

    def draw_file(self) -> Operation:
        kinds = ["memfd"] + (["hugetlb"] if "hugetlb" in self._options else [])
        kinds += ["regular"] if "regular" in self._options else []
        kind = self._rng.choice(kinds)
        name = f"f{len(self._files) % 4}"
        self._files[name] = kind
        return ("file", name, kind, 2 * PER_HUGE if kind == "hugetlb" else 16)

    def draw_map(self) -> Operation:
        flags = self._rng.choice((mman.MAP_PRIVATE, mman.MAP_SHARED))
        file = self._rng.choice(["", *self._files])
        if self._files.get(file) == "hugetlb":
            page, n = self._hugetlb()
            return ("map", page, n, self._prot(), flags, file, 0)
        if file:
            page, n = self._small()
            return ("map", page, n, self._prot(), flags, file, self._rng.choice((0, 0, 2)))
        page, n = self._range()
        if page >= HUGETLB_START:
            flags |= mman.MAP_HUGETLB
        elif page >= HUGE_START and self._rng.random() < 0.7:
            page, n, flags = HUGE_START, 2 * PER_HUGE, mman.MAP_PRIVATE
        return ("map", page, n, self._prot(), flags, "", 0)

    def draw_unmap(self) -> Operation:
        return ("unmap", *self._range())

    def draw_mprotect(self) -> Operation:
        return ("mprotect", *self._range(), self._prot())

    def draw_madvise(self) -> Operation:
        return ("madvise", *self._range(), self._rng.choice(ADVICE))

    def draw_page_out(self) -> Operation:
        return ("page_out", *self._small())

    def draw_mremap(self) -> Operation:
        page, n = self._range()
        target, _ = self._small() if page < HUGE_START else self._huge()
        flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
        kind = self._rng.random()
        if kind < 0.2:
            return ("mremap", page, n, max(1, n - 1), 0, 0)
        if kind < 0.35:
            return ("mremap", page, n, n + 1, 0, 0)
        if kind < 0.5:
            flags |= mman.MREMAP_DONTUNMAP
        return ("mremap", page, n, n, flags, target)

    def draw_punch(self) -> Operation:
        return ("punch", self._file(), self._rng.randrange(16), self._rng.choice((1, 2, 8)))

    def draw_truncate(self) -> Operation:
        return ("truncate", self._file(), self._rng.choice((0, 4, 16, 16)))

    def draw_pwrite(self) -> Operation:
        return ("pwrite", self._file(), self._rng.randrange(16), self._value())

    def _file(self) -> str:
        plain = [name for name, kind in self._files.items() if kind != "hugetlb"]
        return self._rng.choice(plain) if plain else "none"

    # ---- memory ----------------------------------------------------------------------------------

    def draw_store(self) -> Operation:
        return ("store", self._page(), self._value())

    def draw_load(self) -> Operation:
        return ("load", self._page())

    def draw_kernel_store(self) -> Operation:
        return ("kernel_store", self._page(), self._value())

    def draw_kernel_load(self) -> Operation:
        return ("kernel_load", self._page())

    def draw_peek(self) -> Operation:
        return ("peek", self._page(), self._rng.choice((1, 1, 4)))

    # ---- userfaultfd -----------------------------------------------------------------------------

    def draw_context(self) -> Operation:
        name = f"u{len(self._contexts)}" if len(self._contexts) < 3 else self._context()
        if name not in self._contexts:
            self._contexts.append(name)
        return ("context", name, self._rng.choice(self._features))

    def draw_close(self) -> Operation:
        name = self._context()
        if name in self._contexts and len(self._contexts) > 1:
            self._contexts.remove(name)
            self._registered = [known for known in self._registered if known[0] != name]
        return ("close", name)

    def draw_register(self) -> Operation:
        mode = self._rng.choice((2, 2, 2, 2, 3, 1, 4, 6, 7))
        place = self._context(), *self._range()
        self._registered = [*self._registered[-3:], place]
        return ("register", *place, mode)

    def _known(self) -> tuple[str, int, int]:
        """A context and a range, mostly one that was registered, or a part of it."""
        if not self._registered or self._rng.random() < 0.2:
            return self._context(), *self._range()
        name, page, n = self._rng.choice(self._registered)
        if self._rng.random() < 0.6:
            return name, page, n
        skip = self._rng.randrange(n)
        return name, page + skip, self._rng.randrange(1, n - skip + 1)

    def draw_unregister(self) -> Operation:
        return ("unregister", *self._known())

    def draw_wake(self) -> Operation:
        return ("wake", *self._known())

    def draw_writeprotect(self) -> Operation:
        return ("writeprotect", *self._known(), self._rng.choice((1, 1, 1, 0, 0, 2, 3)))

    def draw_copy(self) -> Operation:
        return ("copy", *self._known(), self._page(), self._rng.choice((0, 0, 2, 2, 1, 4)))

    def draw_zeropage(self) -> Operation:
        return ("zeropage", *self._known(), self._rng.choice((0, 0, 1, 2)))

    def draw_continue(self) -> Operation:
        return ("continue", *self._known(), self._rng.choice((0, 0, 2)))

    def draw_poison(self) -> Operation:
        return ("poison", *self._known(), 0)

    def draw_move(self) -> Operation:
        source, _ = self._range()
        return ("move", *self._known(), source, self._rng.choice((0, 2)))

    # ---- processes and threads -------------------------------------------------------------------

    def draw_fork(self) -> Operation:
        self._n_processes += 1
        return ("fork",)

    def draw_switch(self) -> Operation:
        return ("switch", self._rng.randrange(self._n_processes))

    def draw_exit(self) -> Operation:
        return ("exit", self._rng.randrange(self._n_processes))

    def draw_messages(self) -> Operation:
        return ("messages", self._context())

    # ---- scans -----------------------------------------------------------------------------------

    def draw_scan(self) -> Operation:
        rng = self._rng
        page, n = self._range()
        if rng.random() < 0.3:
            page, n = 0, 600
        inverted = rng.choice((0, 0, 0, W, ALL, rng.randrange(ALL + 1)))
        anyof = rng.choice((0, 0, 0, W, ALL, rng.randrange(ALL + 1)))
        returns = rng.choice((W, ALL | G, 0, rng.randrange(ALL + 1)))
        vec = rng.choice((0, 1, 2, 8, 1024))
        limit = rng.choice((0, 0, 0, 1, 3, 10, 256, 512))
        return ("scan", page, n, rng.randrange(4), rng.choice(MASKS), anyof, inverted, returns, vec, limit)

    def draw_collect(self) -> Operation:
        return ("scan", *self._known()[1:], GET_AND_PROTECT, W, 0, 0, W, self._rng.choice((1, 8, 1024)), 0)
