"""One mm being watched: its descriptors, the backend that finds pages, and what is said about its mappings.

A session ends with its mm. ``ProcessTracker`` turns to the next one when exec brought another program.

Who launched the process may hold it at its very end and look a last time (``look_last``), from another thread than the
one that collects. So whoever looks or delivers has ``lock``; nobody waits for anything else while it is held.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final, Protocol

from writewatch.abi.calls import Vma
from writewatch.errors import AttachError, WriteWatchError
from writewatch.tracker.process.backend import Sighting
from writewatch.tracker.process.blindness import BlindSpots
from writewatch.tracker.process.images import Images
from writewatch.tracker.process.mappings import Hints, named
from writewatch.tracker.process.procfiles import MmGoneError, ProcFiles, command_of
from writewatch.tracker.process.records import Options
from writewatch.tracker.process.select import MovedOnError, Take, choose
from writewatch.tracker.process.threads import StackPointers
from writewatch.tracker.process.writes import Mapping
from writewatch.tracker.ranges import max_map_count

#: Shares of vm.max_map_count: above the first epochs grow longer, above the second nothing is watched.
MANY_MAPPINGS: Final = 0.5
TOO_MANY_MAPPINGS: Final = 0.9
#: Programs that a process may become, one after another, while it is attached to: wrappers are seldom nested deeper.
_TRIES: Final = 16


class Session:
    """Watches the mm that a process has now.

    Args:
        pid: Of the process.
        options: How to watch.
        take: How to get a userfaultfd of it; None for that of the options.
        report: Whether what is there already belongs to the first report, as assumed.

    Attributes:
        command: Name of the program.
        began_ns: ``time.monotonic_ns()`` when watching began.
        lock: Of whoever looks or delivers.
        saw_end: Whether ``look_last`` has seen everything.

    Raises:
        AttachError, KernelUnsupportedError, UsageError: As ``attach``.
    """

    def __init__(self, pid: int, options: Options, *, take: Take | None = None, report: bool = False) -> None:
        self.files = ProcFiles(pid, options.calls)
        try:
            _refuse_many_mappings(self.files)
            chosen = choose(options.backend, self.files, options.calls, take or options.take, report=report)
        except BaseException:
            self.files.close()
            raise
        self.began_ns = time.monotonic_ns()
        self.command = command_of(pid)
        self.backend, self.reason, self._notes = chosen.backend, chosen.reason, chosen.notes
        self._blind = BlindSpots(pid, options.calls)
        self._stacks = StackPointers(pid)
        self._images = Images(self.files.view, options.calls.page_size)
        self._described: tuple[object, ...] = ()
        self._mappings: tuple[Mapping, ...] = ()
        self.lock = threading.RLock()
        self.saw_end = False
        self._owes = False

    @property
    def has_news(self) -> bool:
        """Whether something was found, or the last look was made, that is still to be delivered."""
        return self._owes or not self.backend.sighting.is_empty

    def look(self) -> None:
        """As of the backend."""
        with self.lock:
            if self.saw_end:
                raise MmGoneError
            self.backend.look()

    def n_faults_so_far(self) -> int:
        """As of the backend."""
        with self.lock:
            if self.saw_end:
                raise MmGoneError
            return self.backend.n_faults_so_far()

    def look_last(self, timeout_s: float) -> bool:
        """The process is held and will run no more: look, and name what is there, while it is.

        Returns:
            True when everything was seen. False: somebody was looking all the time, or there was no time for it all;
            what was found is kept.
        """
        if not self.lock.acquire(timeout=timeout_s):
            return False
        try:
            self.backend.look()
            self.mappings(self.backend.sighting)
            self.saw_end = self._owes = True
        except (MmGoneError, WriteWatchError, OSError):
            return False
        finally:
            self.lock.release()
        return True

    def leave_memory(self) -> None:
        """After ``look_last``, the process may end: keep no more descriptors than waiting for it takes.

        Hundreds may have ended before anybody collects.
        """
        with self.lock:
            self.backend.close()
            self.files.pagemap.close()

    def accept(self) -> None:
        """Forget what was delivered."""
        self.backend.accept()
        self._owes = False

    def mappings(self, seen: Sighting) -> tuple[Mapping, ...]:
        """The mappings of a report, named; worked out again only when something about them changed."""
        if self.saw_end:
            return self._mappings  # nothing changes any more, and soon there is nobody to ask
        unseen = self._blind.look(seen.layout)
        hints = Hints(self._stacks.look(), self._images.spans(seen.layout.vmas))
        key = (seen.layout, hints, _facts(seen.untracked), _facts(unseen))
        if key != self._described:
            self._mappings = named(seen.layout.vmas, untracked=seen.untracked, unseen=unseen, hints=hints)
            self._described = key
        return self._mappings

    def notes(self, seen: Sighting) -> tuple[str, ...]:
        """What cannot be seen or was given up; call it after ``mappings``."""
        return (*self._notes, *self._blind.notes, *seen.notes)

    def close(self) -> None:
        """Leave the process as it was found. A second call does nothing."""
        with self.lock, contextlib.ExitStack() as stack:
            stack.callback(self.files.close)
            self.backend.close()

    def abandon(self) -> None:
        """In a forked child: close what was inherited. The process goes on being watched by our parent."""
        # Without the lock: a thread that is not here may have held it.
        with contextlib.ExitStack() as stack:
            stack.callback(self.files.close)
            self.backend.abandon()


def open_session(pid: int, options: Options, *, report: bool = False) -> Session:
    """Watch a process by number, with whatever program it has by the time: wrappers exec the real one.

    Raises:
        AttachError, KernelUnsupportedError, UsageError: As ``attach``.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(MovedOnError):
            return Session(pid, options, report=report)
    return Session(pid, options, report=report)


def _facts(sentences: dict[Vma, str]) -> tuple[tuple[int, str], ...]:
    return tuple((vma.start, why) for vma, why in sentences.items())


def _refuse_many_mappings(files: ProcFiles) -> None:
    try:
        n_mappings = files.read_maps().count(b"\n")
    except MmGoneError as error:
        why = f"process {files.pid} has no memory to track: it has exited, or is a kernel thread"
        raise MovedOnError(why, files.pid) from error
    if n_mappings > TOO_MANY_MAPPINGS * max_map_count():
        raise AttachError(too_many(files.pid, n_mappings), files.pid)


def too_many(pid: int, n_mappings: int) -> str:
    """The sentence for a process that must keep what mappings it may still make."""
    return (
        f"{pid} has {n_mappings} of at most {max_map_count()} mappings, and watching might make more: "
        "it is not watched; raise vm.max_map_count"
    )


class Launcher(Protocol):
    """Who started a process: see ``launching.py``."""

    def next_session(self, pid: int) -> Session:
        """The session with the program that exec brought last; AttachError when it could not be watched."""
        ...

    def has_next(self, pid: int) -> bool:
        """Whether there is a session with a program that exec brought, or a reason why not."""
        ...

    def exit_status(self, pid: int) -> int | None:
        """How a process has ended; None while it runs."""
        ...

    def leave(self, pid: int) -> None:
        """The tracker of this process was closed."""
        ...
