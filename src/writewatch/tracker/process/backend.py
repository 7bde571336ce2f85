"""What every way of watching another process offers, and the value that it hands over.

A backend owns what it found until it is told that it was accepted: a report that could not be delivered (an
exception while names were looked up, a signal handler that raised) is part of the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from writewatch.abi.calls import Vma
from writewatch.pages import Runs, no_runs
from writewatch.tracker.process.layout import Layout


@dataclass(frozen=True)
class Sighting:
    """What is known when a backend has looked.

    Attributes:
        layout: The mappings.
        written, assumed, discarded: As in ``ProcessWrites``.
        exact: As in ``ProcessWrites``.
        untracked: Mapping -> why it is not tracked.
        notes: What was given up or went wrong, in sentences.
        n_faults: Faults that the watching cost the program.
        scan_ns: What looking took.
        at_ns: ``time.monotonic_ns()`` of the look.
    """

    layout: Layout
    written: Runs = field(default_factory=no_runs)
    assumed: Runs = field(default_factory=no_runs)
    discarded: Runs = field(default_factory=no_runs)
    exact: bool = True
    untracked: dict[Vma, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    n_faults: int = 0
    scan_ns: int = 0
    at_ns: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether it reports nothing."""
        return not len(self.written) and not len(self.assumed) and not len(self.discarded)


class ProcessBackend(Protocol):
    """Finds the pages of one mm that were written since it last looked."""

    name: str

    def look(self) -> None:
        """Look, and add what was found to what waits to be accepted.

        Raises:
            MmGoneError: There is nothing to look at any more; what was found before stays.
            OSError: The kernel refused; what was found before that stays.
        """
        ...

    def n_faults_so_far(self) -> int:
        """Faults that the watching has cost the program since the last look; 0 where that cannot be told.

        It changes nothing.

        Raises:
            MmGoneError: There is nothing to look at any more.
        """
        ...

    @property
    def sighting(self) -> Sighting:
        """What waits to be accepted."""
        ...

    def accept(self) -> None:
        """Forget what was delivered."""
        ...

    def abandon(self) -> None:
        """In a forked child: close what was inherited, touch nothing else."""
        ...

    def close(self) -> None:
        """Leave the process as if nobody had looked. A second call does nothing."""
        ...
