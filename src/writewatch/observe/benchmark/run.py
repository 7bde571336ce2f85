"""This machine's figures against the peers, in one run of seconds: what ``writewatch bench`` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from writewatch.observe.benchmark.collecting import (
    ASYNC,
    Comparison,
    Workload,
    backend_here,
    compare_collect,
    compare_is_clean,
    why_no_c,
)
from writewatch.observe.benchmark.content import BruteForce, brute_force
from writewatch.observe.benchmark.machine import Machine
from writewatch.observe.benchmark.memory import PAGE, allocate, available_bytes
from writewatch.observe.benchmark.peers import Peers, PeersUnavailable, build
from writewatch.observe.benchmark.timing import Effort
from writewatch.observe.benchmark.writes import FirstWrite, first_writes

_FIRST_WRITE_BYTES: Final = 256 << 20  # what a page costs does not depend on how many there are
_FRACTIONS: Final = (0.0, 0.001, 0.01, 0.1, 1.0)
#: How often each operation, when nobody says otherwise.
EFFORT: Final = Effort(least=3, most=25, seconds=0.8)

#: The steps of a run, for a progress bar: one for each fraction, and those in ``measure``.
N_STEPS: Final = len(_FRACTIONS) + 4


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Attributes:
        machine: Where.
        backend: What ``track`` picked.
        size_bytes: Memory that was tracked, hashed, compared and copied.
        is_clean: The question whether anything was written, when nothing was.
        collects: ``collect()``, ascending by the share of pages written.
        first_writes: What a first write costs, by mechanism; cheapest first.
        brute_force: What it costs to look at all content instead.
        notes: One sentence for each thing that could not be measured here.
    """

    machine: Machine
    backend: str
    size_bytes: int
    is_clean: Comparison
    collects: tuple[Comparison, ...]
    first_writes: tuple[FirstWrite, ...]
    brute_force: tuple[BruteForce, ...]
    notes: tuple[str, ...]


def fitting_bytes(wanted: int) -> int:
    """The wanted size, or a third of what this machine has free when that is less; whole pages."""
    return max(PAGE, min(wanted, available_bytes() // 3) // PAGE * PAGE)


def measure(size_bytes: int, step: Callable[[str], None] = lambda _: None) -> Report:
    """Measure everything once.

    Args:
        size_bytes: Whole pages. A copy of that memory is made too.
        step: Told what begins, ``N_STEPS`` times.
    """
    step("compiling the C peers")
    peers, notes = _peers()
    backend, reason = backend_here()
    followers = peers if backend == ASYNC else None
    if peers and not followers:
        notes.append(why_no_c(backend, reason))
    step("is_clean")
    is_clean = compare_is_clean(followers, size_bytes, EFFORT)
    collects = []
    for fraction in _FRACTIONS:
        step(f"collect, {fraction:.1%} written")
        workload = Workload(size_bytes, "4k", fraction, "random")
        collects.append(compare_collect(followers, workload, EFFORT))
    step("first writes")
    writes, refused = _first_writes(peers, size_bytes)
    step("hashing, comparing, copying")
    content, missing = brute_force(peers, allocate(size_bytes, "4k"), EFFORT)
    return Report(
        Machine.here(),
        backend,
        size_bytes,
        is_clean,
        tuple(collects),
        writes,
        content,
        (*notes, *refused, *missing),
    )


def _peers() -> tuple[Peers | None, list[str]]:
    try:
        return build(), []
    except PeersUnavailable as reason:
        return None, [str(reason)]


def _first_writes(peers: Peers | None, size_bytes: int) -> tuple[tuple[FirstWrite, ...], tuple[str, ...]]:
    if peers is None:
        return (), ()
    return first_writes(peers, allocate(min(size_bytes, _FIRST_WRITE_BYTES), "4k"), effort=EFFORT)
