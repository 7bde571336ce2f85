"""``launch``: a program that is watched from its first instruction on, and what comes of it.

Whatever is followed, exec or fork, is held by its tracer until it is registered and protected here. So a thread of
ours listens for that and lets it go at once, however seldom anybody collects.

What is followed is held once more at its very end, where it can write no more: the same thread looks, and the next
``collect()`` reports what it found. An exec has no such moment: Linux shows it when the old mm is gone, and a stop
before it would be a stop at every system call. Without following the program is let go at its start: a debugger can
have it and its signals take their usual way, and nobody holds it at its end.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import IO, Any, Final

from writewatch.errors import AttachError, WriteWatchError
from writewatch.kernel.default import default_calls
from writewatch.kernel.ptrace import launching
from writewatch.tracker.process.records import Options
from writewatch.tracker.process.select import NoUserfaultfdError, Take, Taken, take_by_ptrace
from writewatch.tracker.process.session import Session
from writewatch.tracker.process.tracking import ProcessTracker

#: What ``subprocess`` takes for a standard stream, without PIPE.
Stream = int | IO[Any] | None

#: The tracer hears of an end, or of an exec, a moment after we see its effect.
_PATIENCE_S: Final = 5.0
#: A process is held so long at its end at most.
_END_S: Final = 1.0


class Follower:
    """Watches every new mm of a launched program before it runs.

    Args:
        launched: The program, held before its first instruction; owned from now on.
        options: How to watch.
    """

    def __init__(self, launched: launching.Launched, options: Options) -> None:
        self._launched = launched
        self._options = options
        self._successors: defaultdict[int, queue.SimpleQueue[Session | str]] = defaultdict(queue.SimpleQueue)
        self._ends: defaultdict[int, threading.Event] = defaultdict(threading.Event)
        self._statuses: dict[int, int] = {}
        self._sessions: dict[int, Session] = {}  # with the program that a process runs now
        self._left = False
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self.tracker = self._first()
        except BaseException:
            os.close(self._stop_fd)
            launched.close()
            raise
        self._trackers = {launched.pid: self.tracker}
        self._thread = threading.Thread(target=self._serve, name="writewatch-follow", daemon=True)
        self._thread.start()

    def _first(self) -> ProcessTracker:
        event = self._launched.next_event()
        if not isinstance(event, launching.NewMemory):
            raise AttachError(
                f"{self._launched.pid} ended before its first instruction; try again", self._launched.pid
            )
        with _Handed(event) as take:
            session = self._sessions[event.pid] = Session(event.pid, self._options, take=take)
        tracker = ProcessTracker(event.pid, self._options, session=session, launcher=self)
        self._launched.release(event.pid)
        return tracker

    # ---- for trackers ----------------------------------------------------------------------------

    def next_session(self, pid: int) -> Session:
        """The session with the program that exec brought last."""
        try:
            found = self._successors[pid].get(timeout=_PATIENCE_S)
        except queue.Empty:
            raise AttachError("its tracer has not said so", pid) from None
        if isinstance(found, str):
            raise AttachError(found, pid)
        return found

    def has_next(self, pid: int) -> bool:
        """Whether ``next_session`` has one, or says why not."""
        return not self._successors[pid].empty()

    def exit_status(self, pid: int) -> int | None:
        """How a process has ended; None while it runs, and when nobody is left to say."""
        if pid in self._statuses or self._thread.is_alive():
            self._ends[pid].wait(_PATIENCE_S)
        return self._statuses.get(pid)

    def leave(self, pid: int) -> None:
        """Closing the first tracker ends it all: everything that is held is let go."""
        if pid == self._launched.pid and not self._left:
            self._left = True
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            os.close(self._stop_fd)
            self._close_unclaimed()

    def _close_unclaimed(self) -> None:
        for successors in self._successors.values():
            while not successors.empty():
                session = successors.get()
                if isinstance(session, Session):
                    session.close()

    # ---- the thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._stop_fd, select.POLLIN)
        poller.register(self._launched, select.POLLIN)
        with self._launched:
            while self._stop_fd not in dict(poller.poll()):
                if not self._serve_one():
                    break

    def _serve_one(self) -> bool:
        """One event; False when there will be no more."""
        event = self._launched.next_event(0)
        if event is None:
            return False
        if isinstance(event, launching.Ended):
            self._has_ended(event)
            return True
        if isinstance(event, launching.Ending):
            self._look_last(event.pid)
            return True
        try:
            self._watch(event)
        finally:
            self._launched.release(event.pid)
        return True

    def _has_ended(self, event: launching.Ended) -> None:
        self._statuses[event.pid] = event.status
        self._ends[event.pid].set()
        self._trackers.pop(event.pid, None)  # what descends from it is the first one's from now on
        session = self._sessions.pop(event.pid, None)
        if session is not None and not session.saw_end and event.pid != self._launched.pid:
            self.tracker.tell(f"what {session.command} ({event.pid}) wrote after the last look was not seen")

    def _look_last(self, pid: int) -> None:
        """A process is held at its end."""
        session = self._sessions.get(pid)
        try:
            if session is not None:
                session.look_last(_END_S)
        finally:
            self._launched.let_end(pid)
        if session is not None and session.saw_end:
            session.leave_memory()

    def _watch(self, event: launching.NewMemory) -> None:
        is_exec = event.cause == "exec" and event.pid in self._trackers
        self._sessions.pop(event.pid, None)
        with _Handed(event) as take:
            if is_exec and event.pid == self._launched.pid and not self._options.follow_exec:
                return
            try:
                session = self._sessions[event.pid] = Session(event.pid, self._options, take=take)
            except (WriteWatchError, OSError) as error:
                self._cannot(event, is_exec, str(error))
                return
        if is_exec:
            self._successors[event.pid].put(session)
            return
        options = replace(self._options, follow_exec=True)
        child = ProcessTracker(event.pid, options, session=session, launcher=self)
        parent = self._trackers.get(event.parent, self.tracker)
        self._trackers[event.pid] = child
        parent.graft(child)

    def _cannot(self, event: launching.NewMemory, is_exec: bool, why: str) -> None:
        if is_exec:
            self._successors[event.pid].put(why)
        else:
            self.tracker.tell(f"child {event.pid} is not watched: {why}")


class _Handed:
    """The descriptor that came with an event, in the manner of one that has yet to be taken; closed if nobody does."""

    def __init__(self, event: launching.NewMemory) -> None:
        self._event = event
        self._is_taken = False

    def __call__(self, pid: int) -> Taken:
        if self._event.taken is None:
            raise NoUserfaultfdError(self._event.reason, pid)
        self._is_taken = True
        return self._event.taken

    def __enter__(self) -> Take:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._event.taken is not None and not self._is_taken:
            os.close(self._event.taken.fd)


def launch(
    argv: Sequence[str],
    *,
    backend: str = "auto",
    follow_forks: bool = False,
    follow_exec: bool = False,
    budget: float | None = 0.05,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
) -> ProcessTracker:
    """Start a program and watch it from its first instruction on.

    Needs no right beyond starting it. What is followed cannot be traced by another debugger meanwhile, and is held for
    a moment at its end, for a last look: the reports hold what it wrote until then, also by a program shorter than any
    interval. A program that is not followed at all (neither forks nor exec) is not held, and what it wrote after the
    last collect is not reported. Nor is what a program wrote between the last look and an exec. Closing the tracker
    lets the program run on.

    Args:
        argv: The program, looked for along PATH, and its arguments.
        backend: As for ``attach``.
        follow_forks: Watch all that descends from it too, by whatever exec.
        follow_exec: Go on with the program that exec brings in the same process.
        budget: As for ``attach``.
        env: Its environment, by default ours.
        cwd: Its working directory, by default ours.
        stdin: As for ``subprocess.Popen``, without PIPE; so are the next two.
        stdout: Where it writes.
        stderr: Where it complains.

    Raises:
        UsageError: There is no program in ``argv``, or a stream is PIPE.
        OSError: It cannot be executed, such as FileNotFoundError.
        AttachError: It may not be traced, or cannot be watched.
        KernelUnsupportedError: Launching is not written for this architecture; the named backend does not work here.
    """
    launched = launching.launch(
        argv,
        follow_forks=follow_forks,
        follow_exec=follow_exec,
        end_patience_s=_END_S,
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
    )
    options = Options(backend, follow_forks, follow_exec, budget, take_by_ptrace, default_calls())
    return Follower(launched, options).tracker
