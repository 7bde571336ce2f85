"""``ProcessTracker``: another process, and what it writes.

Theory of operation. A ``ProcessTracker`` watches one mm at a time, in a session with descriptors that belong to
that mm. When they say that it has ended there are two cases: the process ends too; or it has another mm, then exec
replaced its program, and the tracker goes over to that (``follow_exec``) or is done.

``collect()`` looks, names, and only then lets the backend forget: a report that could not be delivered is part of the
next one. Whatever had been found when the mm ended is reported before TrackingLostError is raised.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from dataclasses import replace
from types import TracebackType
from typing import Final, NoReturn, Self

from writewatch.errors import TrackerClosedError, TrackingLostError, WriteWatchError
from writewatch.tracker.process.backend import Sighting
from writewatch.tracker.process.budget import Budget
from writewatch.tracker.process.family import Brood
from writewatch.tracker.process.procfiles import MmGoneError, command_of, has_memory
from writewatch.tracker.process.records import Options, ProcessStatistics, State
from writewatch.tracker.process.session import (
    MANY_MAPPINGS,
    TOO_MANY_MAPPINGS,
    Launcher,
    Session,
    open_session,
    too_many,
)
from writewatch.tracker.process.writes import ProcessWrites
from writewatch.tracker.ranges import max_map_count

#: An mm ends a moment before its process can be waited for.
_ENDING_S: Final = 2.0
#: Epochs are so much longer while the target has many mappings.
_STRETCH: Final = 4.0


class ProcessTracker:
    """Tells what another process wrote. Made by ``attach`` and ``launch``; close it, or use a ``with`` statement.

    Threads may share one. Closed or killed, it leaves the process as it found it.

    Args:
        pid: Of the process.
        options: How to watch.
        session: With its mm, if it is open already; owned from now on.
        launcher: Who started the process, and holds each new program until it is watched.

    Attributes:
        pid: Of the process.
        command: Its name; another one after an exec that is followed.
        budget: How often to collect, and what it costs.
        state: ``running``; ``exited``; or ``replaced``: exec brought another program, which is not followed.
    """

    def __init__(
        self,
        pid: int,
        options: Options,
        *,
        session: Session | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        self.pid = pid
        self.budget = Budget(options.budget)
        self.state: State = "running"
        self._options = options
        self._launcher = launcher
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._lost_because = ""
        self._closed = False
        self._told: list[str] = []  # for the next report
        self._n_pages = self._n_mappings = 0
        self._children: list[ProcessTracker] = []
        self._arrived: deque[ProcessTracker] = deque()  # from the launcher's thread
        self._brood = Brood(pid) if options.follow_forks and launcher is None else None
        present = self._brood.fresh() if self._brood else ()
        self._become(session or open_session(pid, options))
        try:
            for child in present:
                self._adopt(child, report=False)
        except BaseException:
            self.close()
            raise

    def _become(self, session: Session) -> None:
        self._session = session
        self.command = session.command
        self._epoch = 0
        self._started_ns = session.began_ns

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """Name of what finds the pages: ``uffd-wp``, ``soft-dirty`` or ``content-hash``."""
        return self._session.backend.name

    @property
    def reason(self) -> str:
        """Why this backend, and why not a better one."""
        return self._session.reason

    @property
    def children(self) -> tuple[ProcessTracker, ...]:
        """Children that are followed; those that ended leave at the next collect of their parent."""
        return (*self._children, *self._arrived)

    @property
    def exit_status(self) -> int | None:
        """Of a launched process that has ended, as ``subprocess`` has it; None otherwise."""
        if self._launcher is None or not (self._closed or self._session.files.has_exited()):
            return None
        return self._launcher.exit_status(self.pid)

    def statistics(self) -> ProcessStatistics:
        """A record of what was seen so far; asks nobody."""
        latest = self.budget.latest
        return ProcessStatistics(
            self.pid,
            self.command,
            self.backend,
            self.reason,
            self.state,
            self._epoch,
            self._n_pages,
            self._n_mappings,
            len(self._children),
            self.budget.cost_share,
            0.0 if latest is None else latest.scan_s,
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else self.state
        return (
            f"<ProcessTracker of {self.command} ({self.pid}), {state}, {self.backend}, {self._epoch} epochs, "
            f"about {self.budget.cost_share:.1%} of one core>"
        )

    # ---- collecting ------------------------------------------------------------------------------

    def collect(self) -> ProcessWrites:
        """What was written since the last collect.

        Nothing is lost when this raises, for whatever reason: what had been found is part of the next report.

        Raises:
            TrackingLostError: The process has exited; exec replaced its program and is not followed; or it has so
                many mappings that watching might keep it from making more. Or this is a fork of the process that
                made the tracker, which goes on there.
            TrackerClosedError: ``close()`` was called.
        """
        self._check_process()
        with self._lock:
            self._check_open()
            if self._lost_because:
                raise TrackingLostError(self._lost_because)
            self._look_for_children()
            self._look()
            self._mind_mappings()
            with self._session.lock:
                return self._deliver(self._session.backend.sighting)

    def _look(self) -> None:
        """Look at the mm, or at the one that came after it. Returns when there is something to report."""
        while True:
            try:
                self._session.look()
            except MmGoneError:
                self.state = self._state_of_the_end()
                if self._session.has_news:
                    return
                self._go_on_after_the_end()
            else:
                return

    def _state_of_the_end(self) -> State:
        """What the end of an mm means. A process has not exited while a program of it is still to be reported."""
        is_next = self._launcher is not None and self._launcher.has_next(self.pid)
        if self._is_ending() and not (is_next and self._options.follow_exec):
            return "exited"
        return "running" if self._options.follow_exec else "replaced"

    def _go_on_after_the_end(self) -> None:
        """Turn to the program that exec brought, if there is one and it is followed."""
        if self.state == "exited":
            unseen = "" if self._session.saw_end else "; what it wrote after the last look was not seen"
            self._lose(f"{self.pid} ({self.command}) has exited{unseen}")
        before, now = self._session, command_of(self.pid)
        if not self._options.follow_exec:
            self._lose(
                f"exec: {self.pid} ({self.command}) is now {now}; attach again, or with follow_exec=True"
            )
        self.state = "replaced"
        try:
            self._become(self._next_session())
        except (WriteWatchError, OSError) as error:
            self._lose(f"exec: {self.pid} is now {now}, which cannot be followed: {error}", error)
        before.close()
        self.state = "running"

    def _next_session(self) -> Session:
        """With the program that exec brought. Who launched it has held it until it was watched."""
        if self._launcher is not None:
            session = self._launcher.next_session(self.pid)
            self._told.append(f"exec: now {session.command}")
            # Linux shows a tracer the exec when the old mm is gone.
            self._told.append(f"what {self.command} wrote between its last look and that exec was not seen")
        else:
            session = open_session(self.pid, self._options, report=True)
            self._told.append(
                f"exec: now {session.command}; what it wrote before it was attached to is assumed"
            )
        return session

    def _is_ending(self) -> bool:
        files = self._session.files
        if self._session.saw_end:
            files.has_exited(_ENDING_S)
            return True
        return files.has_exited() or (not has_memory(self.pid) and files.has_exited(_ENDING_S))

    def _lose(self, why: str, cause: BaseException | None = None) -> NoReturn:
        self._lost_because = why
        raise TrackingLostError(why) from cause

    def _mind_mappings(self) -> None:
        """Watching makes mappings that never merge again; the program must always be able to make its own."""
        n_mappings, most = len(self._session.backend.sighting.layout.vmas), max_map_count()
        self.budget.stretch = _STRETCH if n_mappings > MANY_MAPPINGS * most else 1.0
        if n_mappings > TOO_MANY_MAPPINGS * most and self.state == "running":
            self._lost_because = too_many(self.pid, n_mappings)
            self._told.append(self._lost_because)
            with self._session.lock:
                self._session.backend.close()

    def _deliver(self, seen: Sighting) -> ProcessWrites:
        told = tuple(self._told)
        mappings = self._session.mappings(seen)
        ended_ns = seen.at_ns or time.monotonic_ns()
        writes = ProcessWrites(
            self.pid,
            self.command,
            self._epoch,
            self._started_ns,
            ended_ns,
            seen.layout.page_size,
            seen.written,
            mappings,
            self.backend,
            seen.exact,
            seen.assumed,
            seen.discarded,
            (*self._session.notes(seen), *told),
            self._session.saw_end,
        )
        self.budget.observe(writes.elapsed_s, seen.n_faults, seen.scan_ns / 1e9)
        self._n_pages += writes.n_pages
        self._n_mappings = len(mappings)
        self._session.accept()
        del self._told[: len(told)]  # a launcher may have told more meanwhile
        self._epoch += 1
        self._started_ns = ended_ns
        return writes

    def put_off_s(self) -> float:
        """Seconds by which the budget asks to put off a collect that is due, because of what was written meanwhile."""
        with self._lock:
            if self._closed or self._lost_because:
                return 0.0
            try:
                n_faults = self._session.n_faults_so_far()
            except MmGoneError:
                return 0.0
            return self.budget.put_off_s((time.monotonic_ns() - self._started_ns) / 1e9, n_faults)

    # ---- children --------------------------------------------------------------------------------

    def _look_for_children(self) -> None:
        while self._arrived:
            self._children.append(self._arrived.popleft())
        for child in self.children:
            if child.state != "running":
                self._children.remove(child)
                self._children += child._leave_off()
        for pid in self._brood.fresh() if self._brood else ():
            self._adopt(pid, report=True)

    def _adopt(self, pid: int, *, report: bool) -> None:
        if pid == self._owner:
            self._told.append(
                f"child {pid} ({command_of(pid)}) is the process that watches: it is not watched"
            )
            return
        options = replace(self._options, follow_exec=True)
        try:
            child = ProcessTracker(pid, options, session=open_session(pid, options, report=report))
        except (WriteWatchError, OSError) as error:
            self._told.append(f"child {pid} ({command_of(pid) or 'gone'}) is not watched: {error}")
            return
        self._children.append(child)
        if report:
            child._told.append(f"forked by {self.pid}; what it wrote before it was attached to is assumed")

    def _leave_off(self) -> list[ProcessTracker]:
        """Its process has ended, and its last report is out. Its children go on being watched, by who takes them."""
        with self._lock:
            self._lost_because = self._lost_because or f"{self.pid} ({self.command}) has {self.state}"
            self._session.close()
            children = list(self.children)
            self._children, self._arrived = [], deque()
            return children

    def graft(self, child: ProcessTracker) -> None:
        """For a launcher: a child that is watched already, from now on among ``children``."""
        # Not under the lock: collect() may hold it and wait for the same thread.
        self._arrived.append(child)

    def tell(self, sentence: str) -> None:
        """For a launcher: a note for the next report."""
        self._told.append(sentence)

    # ---- life ------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Sleep for so many seconds, or until the process ends.

        Returns:
            True when it has ended.
        """
        self._check_process()
        self._check_open()
        has_ended = self._session.files.has_exited(timeout_s)
        self._check_open()  # another thread may have closed it meanwhile
        return has_ended

    def _check_open(self) -> None:
        if self._closed:
            raise TrackerClosedError(f"the tracker of {self.pid} is closed; attach again")

    def _check_process(self) -> None:
        """Our fork has the same descriptors: what it collected would be missing in the reports here."""
        if os.getpid() != self._owner:
            raise TrackingLostError(
                f"process {os.getpid()} was forked from {self._owner}, where this tracker of {self.pid} was made; "
                "collect there, or close that one and attach here"
            )

    def close(self) -> None:
        """Stop watching, its children too: they run on as if they never were. A second call does nothing."""
        if os.getpid() != self._owner:
            self._abandon()
            return
        if self._launcher is not None:
            self._launcher.leave(self.pid)  # before the lock: its thread may need it
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.ExitStack() as stack:
                for child in self.children:
                    stack.callback(child.close)
                self._session.close()

    def _abandon(self) -> None:
        """In a forked child: the tracker of its parent goes on."""
        if not self._closed:
            self._closed = True
            with contextlib.ExitStack() as stack:
                for child in self.children:
                    stack.callback(child.close)
                self._session.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
