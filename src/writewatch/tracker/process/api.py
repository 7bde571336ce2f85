"""``attach`` and ``launch``: another process as a tracker that tells what it writes.

Theory of operation. A ``ProcessTracker`` watches one mm at a time, with descriptors that belong to that mm. When
they say that it has ended there are two cases: the pidfd is readable, then the process has exited; or the process
lives, then exec replaced its program, and the tracker goes over to the new mm (``follow_exec``) or ends.
``collect()`` looks, names, and only then lets the backend forget what it reported.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

from writewatch.errors import AttachError, TrackerClosedError, TrackingLostError, UsageError
from writewatch.kernel.default import default_calls
from writewatch.tracker.process.backend import ProcessBackend, Sighting
from writewatch.tracker.process.budget import Budget
from writewatch.tracker.process.mappings import named
from writewatch.tracker.process.procfiles import MmGoneError, ProcFiles, command_of
from writewatch.tracker.process.uffd import UffdProcess
from writewatch.tracker.process.writes import ProcessWrites

State: TypeAlias = Literal["running", "exited", "replaced"]


class Taken(Protocol):
    """A userfaultfd of the target; see ``kernel/ptrace``."""

    @property
    def fd(self) -> int:
        """Owned by whoever took it."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was special."""
        ...


Take: TypeAlias = Callable[[int], Taken]


class ProcessTracker:
    """Tells what another process wrote; made by ``attach`` and ``launch``.

    Attributes:
        pid: Of the process.
        backend: Name of what finds the pages.
        reason: Why this one.
        budget: How often to collect.
    """

    def __init__(self, pid: int, take: Take, budget: float | None) -> None:
        self.pid = pid
        self.budget = Budget(budget)
        self.reason = "uffd-wp"
        self._state: State = "running"
        self._lock = threading.Lock()
        self._calls = default_calls()
        self._epoch = 0
        self._files = ProcFiles(pid, self._calls)
        self.command = command_of(pid)
        self._backend: ProcessBackend
        try:
            backend = UffdProcess(take(pid).fd, self._files, self._calls)
            self._backend = backend
            backend.start(report=False)
        except BaseException:
            self._files.close()
            raise
        self._started_ns = time.monotonic_ns()
        self._closed = False

    @property
    def backend(self) -> str:
        """Name of what finds the pages."""
        return self._backend.name

    @property
    def state(self) -> State:
        """``running``; ``exited``; or ``replaced``: exec brought another program, which is not followed."""
        return self._state

    @property
    def children(self) -> tuple[ProcessTracker, ...]:
        """Children that are followed."""
        return ()

    @property
    def exit_status(self) -> int | None:
        """Of a launched process that has ended, as ``subprocess`` has it; None otherwise."""
        return None

    def collect(self) -> ProcessWrites:
        """What was written since the last collect.

        Raises:
            TrackingLostError: The process has exited, or exec replaced its program.
            TrackerClosedError: ``close()`` was called.
        """
        with self._lock:
            if self._closed:
                raise TrackerClosedError(f"the tracker of {self.pid} is closed; attach again")
            try:
                self._backend.look()
            except MmGoneError:
                self._lose()
            return self._deliver(self._backend.sighting)

    def _lose(self) -> None:
        self._state = "exited" if self._files.has_exited(1.0) else "replaced"
        if self._backend.sighting.is_empty:
            raise TrackingLostError(f"{self.pid} ({self.command}) has {self._state}")

    def _deliver(self, seen: Sighting) -> ProcessWrites:
        writes = ProcessWrites(
            self.pid,
            self.command,
            self._epoch,
            self._started_ns,
            seen.at_ns,
            seen.layout.page_size,
            seen.written,
            named(seen.layout.vmas, untracked=seen.untracked, unseen={}),
            self._backend.name,
            seen.exact,
            seen.assumed,
            seen.discarded,
            seen.notes,
        )
        self.budget.observe(writes.elapsed_s, seen.n_faults, seen.scan_ns / 1e9)
        self._backend.accept()
        self._epoch += 1
        self._started_ns = seen.at_ns
        return writes

    def wait(self, timeout_s: float) -> bool:
        """Sleep for so many seconds, or until the process ends. True: it has ended."""
        poller = select.poll()
        poller.register(self._files, select.POLLIN)
        return bool(poller.poll(max(0, math.ceil(timeout_s * 1000))))

    def close(self) -> None:
        """Stop watching: the process runs on as if it had never been watched. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._backend.close()
                self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def attach(
    pid: int,
    *,
    backend: str = "auto",
    follow_forks: bool = False,
    follow_exec: bool = False,
    budget: float | None = 0.05,
    take: Take | None = None,
) -> ProcessTracker:
    """Watch a running process."""
    if take is None:
        raise AttachError("no way to take a userfaultfd from a process yet; give take=", pid)
    if backend not in ("auto", "uffd-wp"):
        raise UsageError(f"no backend {backend!r}")
    return ProcessTracker(pid, take, budget)
