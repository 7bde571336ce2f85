"""``ProcessWrites``: what one process wrote in one epoch, as a value.

It belongs to no tracker and asks no kernel: it can be kept, pickled, written to a trace and drawn. Pages are numbers
(address divided by the page size) in half-open runs, ascending and disjoint, as everywhere.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final, Literal

from writewatch.abi.calls import Vma
from writewatch.pages import Runs, clip, no_runs, total, union

#: What a mapping is for, coarsely enough to sort and colour by.
Kind = Literal["heap", "stack", "anonymous", "file", "shared", "library", "special"]

KINDS: Final[tuple[Kind, ...]] = ("heap", "stack", "anonymous", "file", "shared", "library", "special")


@dataclass(frozen=True, slots=True)
class Mapping:
    """One or several neighbouring VMAs that a person would call one thing.

    Attributes:
        start, end: ``[start, end)`` in bytes.
        name: What a person knows it by: ``[heap]``, ``[stack]``, ``libc.so.6 .data``, a path, ``memfd:name``,
            ``[anon:name]``, ``Python arena``.
        kind: What it is for.
        vmas: The VMAs, ascending.
        unseen: Who may write to it without being seen here, in one sentence; None when nobody.
        tracked: Whether stores to it are reported at all; ``unseen`` says why not.
    """

    start: int
    end: int
    name: str
    kind: Kind
    vmas: tuple[Vma, ...]
    unseen: str | None = None
    tracked: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class MappingWrites:
    """The part of an epoch that fell on one mapping.

    Attributes:
        mapping: Which.
        page_runs: (n, 2) int64 half-open runs of page numbers.
        page_size: Bytes.
    """

    mapping: Mapping
    page_runs: Runs
    page_size: int

    @property
    def n_pages(self) -> int:
        """Pages written."""
        return total(self.page_runs)

    @property
    def n_bytes(self) -> int:
        """Bytes of those pages."""
        return self.n_pages * self.page_size


@dataclass(frozen=True, eq=False)  # arrays have no truth: one report equals itself alone
class ProcessWrites:
    """What one process wrote between two collects.

    Attributes:
        pid: Of the process.
        command: Its name (``/proc/PID/comm``) at that time.
        epoch: Counts from 0; a program that exec made starts anew.
        started_ns, ended_ns: ``time.monotonic_ns()`` at the two collects.
        page_size: Bytes.
        written: (n, 2) int64 runs of pages that the kernel says were written.
        assumed: Runs reported without its word: mappings that appeared, or lost their registration.
        discarded: Runs that held data and were given back (``MADV_DONTNEED``, heap trim): they read as zeros now.
        mappings: All mappings at the end of the epoch, ascending.
        backend: Which one told.
        exact: Whether every page in ``written`` was written.
        notes: What cannot be seen, or was given up, in sentences.
        is_last: Whether the process could write no more when this was collected: it was held at its end. Where that was
            not done, what it wrote after its last epoch is in none.
    """

    pid: int
    command: str
    epoch: int
    started_ns: int
    ended_ns: int
    page_size: int
    written: Runs
    mappings: tuple[Mapping, ...]
    backend: str
    exact: bool
    assumed: Runs = field(default_factory=no_runs)
    discarded: Runs = field(default_factory=no_runs)
    notes: tuple[str, ...] = ()
    is_last: bool = False

    @functools.cached_property
    def page_runs(self) -> Runs:
        """Everything that may have changed: written, assumed and discarded."""
        return union(union(self.written, self.assumed), self.discarded)

    @property
    def n_pages(self) -> int:
        """Pages in ``page_runs``."""
        return total(self.page_runs)

    @property
    def n_bytes(self) -> int:
        """Bytes of those pages."""
        return self.n_pages * self.page_size

    @property
    def elapsed_s(self) -> float:
        """Seconds between the two collects."""
        return (self.ended_ns - self.started_ns) / 1e9

    def by_mapping(self) -> tuple[MappingWrites, ...]:
        """The mappings that were written, most pages first."""
        size = self.page_size
        parts = (
            MappingWrites(mapping, clip(self.page_runs, mapping.start // size, mapping.end // size), size)
            for mapping in self.mappings
        )
        return tuple(sorted((part for part in parts if part.n_pages), key=lambda part: -part.n_pages))

    def __repr__(self) -> str:
        kind = "exact" if self.exact and not len(self.assumed) else "not exact"
        return f"<ProcessWrites of {self.command} ({self.pid}), epoch {self.epoch}, {self.n_pages} pages, {kind}>"
