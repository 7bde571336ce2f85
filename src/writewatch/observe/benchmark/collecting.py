"""``collect()`` and ``is_clean()`` beside the same system calls from C, on one mapping.

The tracker registers the memory; C scans it through a descriptor of its own. So both walk the same page
tables, and both protect again what they report. Each sample writes the same pages, is timed, and is then
held to the truth: a figure for a report with other pages in it would be worth nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

import writewatch as ww
from writewatch.observe.benchmark.memory import PAGE, PageKind, Pattern, allocate, choose_pages
from writewatch.observe.benchmark.peers import Peers
from writewatch.observe.benchmark.timing import Effort, Spread, Subject, interleave, paired_ratio, timed

#: The backend whose system calls the C peer repeats.
ASYNC: Final = "uffd-wp"


@dataclass(frozen=True, slots=True)
class Workload:
    """What is written between two collects.

    Attributes:
        size_bytes: Tracked memory.
        kind: Of its pages, when it is tracked.
        fraction: Share of its pages that are written; 0 asks a memory that nobody wrote to.
        pattern: How they lie.
    """

    size_bytes: int
    kind: PageKind
    fraction: float
    pattern: Pattern

    def pages(self) -> NDArray[np.int64]:
        """The pages to write."""
        return choose_pages(self.size_bytes // PAGE, self.fraction, self.pattern)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One operation of ours beside C.

    Attributes:
        operation: ``collect`` or ``is_clean``.
        workload: What was written.
        n_pages: Pages that both reported.
        ours_ns, c_ns: Nanoseconds; without a C compiler, or with another backend, there is no C.
        ratio: Ours to C, pair by pair.
        read_ns: Collect and its ``regions``: the report in the form in which C has it. A set works
            that out when it is asked. None for ``is_clean``.
        read_ratio: That to C.
    """

    operation: str
    workload: Workload
    n_pages: int
    ours_ns: Spread
    c_ns: Spread | None
    ratio: Spread | None
    read_ns: Spread | None = None
    read_ratio: Spread | None = None


def backend_here() -> tuple[str, str]:
    """Which backend ``track`` picks on this machine, and why, in a sentence."""
    with ww.track(np.zeros(PAGE, np.uint8)) as tracker:
        return tracker.backend, tracker.reason


def why_no_c(backend: str, reason: str) -> str:
    """The sentence for a report in which C is not beside collect."""
    return f"No C beside collect: it repeats only {ASYNC}, and track() picked {backend} here ({reason})."


def compare_collect(peers: Peers | None, workload: Workload, effort: Effort | None = None) -> Comparison:
    """Measure one workload on memory of its own.

    Args:
        peers: None where the backend is not ``ASYNC``: C has no such scan to make then.
        workload: What is tracked and written.
        effort: How often.
    """
    if workload.kind == "thp":
        return _compare("collect", workload, _on_fresh_memory(peers, workload), effort)
    bench = _Bench(peers, workload)
    with bench.tracked() as tracker:
        return _compare("collect", workload, bench.collects(tracker), effort)


def compare_is_clean(peers: Peers | None, size_bytes: int, effort: Effort | None = None) -> Comparison:
    """Ask memory of base pages to which nobody wrote."""
    workload = Workload(size_bytes, "4k", 0.0, "random")
    bench = _Bench(peers, workload)
    with bench.tracked() as tracker:
        return _compare("is_clean", workload, bench.questions(tracker), effort or Effort(least=9, most=301))


def _compare(
    operation: str, workload: Workload, subjects: dict[str, Subject], effort: Effort | None
) -> Comparison:
    taken = interleave(subjects, effort or Effort())
    ours, read, c = taken["ours"], taken.get("read"), taken.get("c")
    return Comparison(
        operation,
        workload,
        len(workload.pages()),
        Spread.of(ours),
        Spread.of(c) if c else None,
        paired_ratio(ours, c) if c else None,
        Spread.of(read) if read else None,
        paired_ratio(read, c) if read and c else None,
    )


class _Bench:
    """One memory, the pages to write, and both ways to ask for them."""

    def __init__(self, peers: Peers | None, workload: Workload) -> None:
        self._peers = peers
        self._memory = allocate(workload.size_bytes, workload.kind)
        self._pages = workload.pages()
        self._pagemap = -1

    @contextmanager
    def tracked(self) -> Iterator[ww.Tracker]:
        # Opened beforehand: in its epoch neither side has made a system call when its clock starts.
        self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC) if self._peers else -1
        try:
            with ww.track(self._memory.buffer) as tracker:
                tracker.collect()  # what a tracker does once, in its first epoch, is not what it costs
                yield tracker
        finally:
            if self._pagemap >= 0:
                os.close(self._pagemap)

    def collects(self, tracker: ww.Tracker) -> dict[str, Subject]:
        subjects = self._beside_c(lambda: self.collect(tracker.collect, tracker), self.collect_in_c)
        return subjects | {"read": lambda: self.collect(lambda: _read(tracker.collect()), tracker)}

    def questions(self, tracker: ww.Tracker) -> dict[str, Subject]:
        return self._beside_c(lambda: self.ask(tracker), self.ask_in_c)

    def _beside_c(self, ours: Subject, in_c: Callable[[Peers], int]) -> dict[str, Subject]:
        peers = self._peers
        return {"ours": ours} if peers is None else {"c": lambda: in_c(peers), "ours": ours}

    def collect(self, collect: Callable[[], ww.DirtySet], tracker: ww.Tracker) -> int:
        found: list[ww.DirtySet] = []
        self._memory.touch(self._pages)
        took = timed(lambda: found.append(collect()))
        self._check(found[0].n_pages, at_least=not found[0].exact)
        # An empty epoch: memory that is rewritten in every one would be left unprotected as hot.
        tracker.collect()
        return took

    def collect_in_c(self, peers: Peers) -> int:
        self._memory.touch(self._pages)
        took = peers.collect(self._pagemap, self._memory)
        lengths = peers.regions["end"] - peers.regions["start"]
        self._check(int(lengths.sum()) // PAGE)
        return took

    def ask(self, tracker: ww.Tracker) -> int:
        took = timed(tracker.is_clean)
        self._check(int(not tracker.is_clean()), at_least=tracker.backend != ASYNC)
        return took

    def ask_in_c(self, peers: Peers) -> int:
        took = peers.is_clean(self._pagemap, self._memory)
        self._check(peers.found)
        return took

    def _check(self, n_pages: int, *, at_least: bool = False) -> None:
        expected = len(self._pages)
        if n_pages < expected or (n_pages > expected and not at_least):
            raise AssertionError(f"{expected} pages were written and {n_pages} reported: no figure for that")


def _read(dirty: ww.DirtySet) -> ww.DirtySet:
    """The same set; its regions have been worked out and looked at."""
    len(dirty.regions)
    return dirty


def _on_fresh_memory(peers: Peers | None, workload: Workload) -> dict[str, Subject]:
    """Subjects that make their memory each time: a huge page is split by the first write after protection."""

    def sample(name: str) -> int:
        bench = _Bench(peers, workload)
        with bench.tracked() as tracker:
            return bench.collects(tracker)[name]()

    names = ("ours", "read") if peers is None else ("c", "ours", "read")
    return {name: partial(sample, name) for name in names}
