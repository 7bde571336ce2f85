"""What a run measures: how large, how often. One plan each for a look, for everything, and for the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writewatch.observe.benchmark.memory import PageKind, Pattern
from writewatch.observe.benchmark.timing import Effort

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30

FRACTIONS: Final = (0.0, 0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan.

    Attributes:
        sizes: Tracked memory of the grid, bytes.
        budget_bytes: Where the budgets are measured; the design says 1 GiB.
        rewrite_bytes: Rewritten in each epoch.
        backend_bytes: Tracked by each backend in turn.
        n_buffers: Small arrays in one tracker.
        n_imports: Fresh interpreters that import, of each kind.
        grid: How often each cell of the grid.
        budget: How often what a budget is held against.
        note: A sentence for the report; empty for none.
    """

    sizes: tuple[int, ...]
    budget_bytes: int
    rewrite_bytes: int
    backend_bytes: int
    n_buffers: int
    n_imports: int
    grid: Effort
    budget: Effort
    note: str = ""

    def cells(self) -> list[tuple[int, PageKind, float, Pattern]]:
        """The grid: 0 % and 100 % have one pattern, as there is nothing to choose."""
        patterns: tuple[Pattern, ...] = ("random", "contiguous")
        kinds: tuple[PageKind, ...] = ("4k", "thp")
        return [
            (size, kind, fraction, pattern)
            for size in self.sizes
            for kind in kinds
            for fraction in FRACTIONS
            for pattern in (patterns if 0 < fraction < 1 else patterns[1:])
        ]


QUICK: Final = Plan(
    sizes=(64 * _MIB, _GIB),
    budget_bytes=_GIB,
    rewrite_bytes=_GIB,
    backend_bytes=64 * _MIB,
    n_buffers=10_000,
    n_imports=15,
    grid=Effort(least=3, most=31, seconds=0.5),
    budget=Effort(warmups=3, least=15, most=301, seconds=3),
)
FULL: Final = Plan(
    sizes=(64 * _MIB, 256 * _MIB, _GIB, 4 * _GIB),
    budget_bytes=_GIB,
    rewrite_bytes=_GIB,
    backend_bytes=256 * _MIB,
    n_buffers=10_000,
    n_imports=41,
    grid=Effort(least=5, most=51, seconds=1),
    budget=Effort(warmups=3, least=31, most=1001, seconds=8),
)
#: Shows that everything runs; its figures mean nothing.
TINY: Final = Plan(
    sizes=(2 * _MIB,),
    budget_bytes=4 * _MIB,
    rewrite_bytes=_MIB,
    backend_bytes=_MIB,
    n_buffers=20,
    n_imports=1,
    grid=Effort(warmups=0, least=1, most=1),
    budget=Effort(warmups=0, least=1, most=2),
    note="A tiny run: it shows that everything runs, and its figures mean nothing.",
)
