"""One collect by each backend, on the same memory with the same pages written, and what those writes cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import writewatch as ww
from writewatch.observe.benchmark.memory import allocate, choose_pages
from writewatch.observe.benchmark.timing import Effort, Spread, interleave, timed

#: In order of preference.
BACKENDS: Final = ("uffd-wp", "soft-dirty", "content-hash", "uffd-wp-sync", "every-page")
_FRACTION: Final = 0.01


@dataclass(frozen=True, slots=True)
class BackendCost:
    """One backend.

    Attributes:
        name: As in ``track(…, backend=name)``.
        size_bytes, n_written: What was tracked, and the pages written to between two collects.
        n_reported: Pages in a report.
        exact: What the report says of itself.
        track_ns: Starting to track, once.
        write_ns: One write, nanoseconds, the fault included where the backend causes one.
        collect_ns: One collect.
    """

    name: str
    size_bytes: int
    n_written: int
    n_reported: int
    exact: bool
    track_ns: int
    write_ns: Spread
    collect_ns: Spread


def backend_cost(name: str, size_bytes: int, effort: Effort | None = None) -> BackendCost:
    """Measure one.

    Raises:
        KernelUnsupportedError: It does not work here; the message says why.
    """
    memory = allocate(size_bytes, "4k")
    pages = choose_pages(memory.n_pages, _FRACTION, "random")
    made: list[ww.Tracker] = []
    track_ns = timed(lambda: made.append(ww.track(memory.buffer, backend=name)))
    reports: list[ww.DirtySet] = []
    write_ns: list[int] = []

    def collect() -> int:
        write_ns.append(timed(lambda: memory.touch(pages)))
        reports[:] = []
        return timed(lambda: reports.append(tracker.collect()))

    with made[0] as tracker:
        taken = interleave({name: collect}, effort or Effort(least=5, most=15, seconds=1))
    last = reports[0]
    if last.n_pages < len(pages):
        raise AssertionError(f"{name}: {len(pages)} pages were written, {last.n_pages} reported")
    return BackendCost(
        name,
        size_bytes,
        len(pages),
        last.n_pages,
        last.exact,
        track_ns,
        Spread.of(write_ns).scaled(1 / len(pages)),
        Spread.of(taken[name]),
    )
