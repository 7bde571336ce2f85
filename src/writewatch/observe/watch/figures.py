"""What watching has found so far, as frozen values; reporters need nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from writewatch.tracker.process.writes import Mapping, ProcessWrites


@dataclass(frozen=True, slots=True)
class Counts:
    """Figures of a mapping or of a whole process. Rates are of bytes of whole pages.

    Attributes:
        n_pages: Pages written, summed over the epochs.
        n_distinct: Different pages among them.
        n_latest: Pages written in the latest epoch.
        rate_latest, rate_mean, rate_peak: Bytes a second: in the latest epoch, over the whole time watched,
            and in the epoch with most, where one that is much shorter than the one before counts together with that
            one. So the peak is never below the mean.
        working_set: Distinct pages written in the windows (``WINDOWS_S``) that end now, one figure each.
        working_set_peak: The largest that each of these ever was.
        history: Bytes a second in the latest epochs, oldest first.
    """

    n_pages: int
    n_distinct: int
    n_latest: int
    rate_latest: float
    rate_mean: float
    rate_peak: float
    working_set: tuple[int, ...]
    working_set_peak: tuple[int, ...]
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MappingFigures:
    """One mapping over all epochs.

    Attributes:
        mapping: As last seen.
        mapped: Whether it was there at the end of the latest epoch.
        counts: What was written.
    """

    mapping: Mapping
    mapped: bool
    counts: Counts


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One process, or one program in a process that exec gave a new one, over all epochs.

    Attributes:
        pid, command, backend: As in the latest epoch.
        page_size: Bytes.
        exact: Whether no epoch reported a page that may not have been written.
        n_epochs: How many.
        n_assumed: Pages in ``counts.n_pages`` that were reported without the kernel's word.
        elapsed_s: From the start of the first epoch to the end of the latest.
        counts: All mappings together.
        mappings: Those that were ever written, most pages first.
        notes: What cannot be seen, each sentence once, in the order of their appearance.
    """

    pid: int
    command: str
    backend: str
    page_size: int
    exact: bool
    n_epochs: int
    n_assumed: int
    elapsed_s: float
    counts: Counts
    mappings: tuple[MappingFigures, ...]
    notes: tuple[str, ...]


def span_s(round_: Sequence[ProcessWrites]) -> float:
    """Seconds that a round of at least one collect covers: the epochs of processes that came or went are shorter."""
    started_ns = min(writes.started_ns for writes in round_)
    return max((max(writes.ended_ns for writes in round_) - started_ns) / 1e9, 1e-9)


def labels(mappings: Sequence[MappingFigures]) -> Callable[[MappingFigures], str]:
    """What to call a mapping among these: its name, and where several have that, its address as well."""
    n_named = Counter(one.mapping.name for one in mappings)

    def label(one: MappingFigures) -> str:
        found = one.mapping
        return found.name if n_named[found.name] < 2 else f"{found.name} {found.start:x}"

    return label
