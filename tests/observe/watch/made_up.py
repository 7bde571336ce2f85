"""Processes that never were: epochs put together by hand, and a tracker that hands them out by a clock of its
own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from writewatch.errors import TrackingLostError
from writewatch.pages import Runs, no_runs, normalise
from writewatch.tracker.process.writes import Kind, Mapping, ProcessWrites

PAGE = 4096
SECOND = 10**9
HEAP = 0x5555_5000_0
STACK = 0x7FFF_FFF0_0


def mapping(name: str, first: int, end: int, kind: Kind = "anonymous", unseen: str | None = None) -> Mapping:
    """A mapping of the pages [first, end)."""
    return Mapping(first * PAGE, end * PAGE, name, kind, (), unseen)


def runs(*pairs: tuple[int, int]) -> Runs:
    return normalise(np.array(pairs, np.int64).reshape(-1, 2))


def epoch(
    number: int,
    mappings: Sequence[Mapping],
    *written: tuple[int, int],
    pid: int = 4711,
    command: str = "redis-server",
    seconds: float = 1.0,
    ended_s: float | None = None,
    assumed: Runs | None = None,
    exact: bool = True,
    notes: tuple[str, ...] = (),
    is_last: bool = False,
) -> ProcessWrites:
    """An epoch; without a time it is one of a row that lasted as long each."""
    ended = (number + 1) * seconds if ended_s is None else ended_s
    return ProcessWrites(
        pid=pid,
        command=command,
        epoch=number,
        started_ns=round((ended - seconds) * SECOND),
        ended_ns=round(ended * SECOND),
        page_size=PAGE,
        written=runs(*written),
        mappings=tuple(mappings),
        backend="uffd-wp",
        exact=exact,
        assumed=no_runs() if assumed is None else assumed,
        notes=notes,
        is_last=is_last,
    )


class MadeUpBudget:
    """Asks for an interval as long as it is told."""

    def __init__(self, longest_s: float = 0.0, cost_share: float = 0.01) -> None:
        self.longest_s = longest_s
        self.cost_share = cost_share

    def period_s(self, wanted: float) -> float:
        return max(wanted, self.longest_s)


class MadeUpTracker:
    """Hands out its epochs one by one and has ended after the last; no time passes but on its own clock."""

    def __init__(
        self,
        epochs: Iterable[ProcessWrites],
        *,
        pid: int = 4711,
        children: tuple[MadeUpTracker, ...] = (),
        budget: MadeUpBudget | None = None,
        exit_status: int | None = 0,
    ) -> None:
        self.pid = pid
        self.command = "redis-server"
        self.backend = "uffd-wp"
        self.reason = "works"
        self.state = "running"
        self.children = children
        self.budget = budget or MadeUpBudget()
        self.now = 100.0
        self.waits: list[float] = []
        self.put_offs: list[float] = []  # what the budget says when a round is due
        self.closed = False
        self._epochs = list(epochs)
        self._exit_status = exit_status

    @property
    def exit_status(self) -> int | None:
        return self._exit_status if self.state == "exited" else None

    def clock(self) -> float:
        return self.now

    def collect(self) -> ProcessWrites:
        if not self._epochs:
            self.state = "exited"
            raise TrackingLostError(f"process {self.pid} has exited")
        return self._epochs.pop(0)

    def put_off_s(self) -> float:
        return self.put_offs.pop(0) if self.put_offs else 0.0

    def wait(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        self.now += timeout_s
        if len(self._epochs) <= 1:
            self.state = "exited"
        return self.state == "exited"

    def close(self) -> None:
        self.closed = True
