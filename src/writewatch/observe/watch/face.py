"""What watching asks of a tracker: the face of ``ProcessTracker``, so that made-up ones serve as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from writewatch.tracker.process.writes import ProcessWrites


class WatchedBudget(Protocol):
    """How often a tracker may look without costing its target too much."""

    @property
    def cost_share(self) -> float:
        """What watching costs the target now, as a share of one processor core; an estimate."""
        ...

    def period_s(self, wanted: float) -> float:
        """Seconds until the next collect should happen: what was wanted, or longer."""
        ...


class Watched(Protocol):
    """A process that is watched."""

    @property
    def pid(self) -> int:
        """Of the process."""
        ...

    @property
    def command(self) -> str:
        """Its name."""
        ...

    @property
    def backend(self) -> str:
        """What tells which pages were written."""
        ...

    @property
    def reason(self) -> str:
        """Why that backend and no better one."""
        ...

    @property
    def state(self) -> str:
        """``running``, ``exited``, or ``replaced`` when another program runs in it that is not followed."""
        ...

    @property
    def children(self) -> Sequence[Watched]:
        """Processes that came of it and are followed."""
        ...

    @property
    def budget(self) -> WatchedBudget:
        """Of this process."""
        ...

    def collect(self) -> ProcessWrites:
        """What was written since the last collect; TrackingLostError when there is nothing more to tell."""
        ...

    def put_off_s(self) -> float:
        """Seconds by which the budget asks to put off a collect that is due; 0 when it may be now."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep, or until the process has ended, which is True."""
        ...

    def close(self) -> None:
        """Leave the process as it was found."""
        ...
