"""What runs in the child processes of a comparison: a keeper that forks the first process, and the loop of each.

``python -m writewatch.observe.simulate.child FD`` is the keeper. Processes that a script forks become its descendants,
it is their subreaper, and it reaps nobody: so how a process ended stays to be read in ``/proc/PID/stat`` until the
connection closes, when the keeper kills its whole process group.

Each request is answered once. A step runs in a thread of its own, because it may wait for a userfaultfd.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import threading
import warnings
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, Final

from writewatch.kernel import libc
from writewatch.kernel.calls import LinuxCalls
from writewatch.observe.simulate.observation import Observation, Observer
from writewatch.observe.simulate.operations import Actor, Calls
from writewatch.observe.simulate.outcome import Outcome, Resumed
from writewatch.observe.simulate.places import Place

#: Seconds that a step may run without an end and without waiting for a userfaultfd.
DEADLINE: Final = 10.0
_LOOK_EVERY: Final = 0.001
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class _Calls(LinuxCalls):
    """The calls of this process, and a regular file."""

    def regular_file(self, length: int) -> int:
        # /tmp is often a tmpfs, whose files are shmem.
        directory = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None  # noqa: S108
        fd, path = tempfile.mkstemp(dir=directory)
        os.unlink(path)
        os.ftruncate(fd, length)
        return fd


class _Thread:
    """A step in a thread of its own."""

    def __init__(self, number: int, calls: LinuxCalls, steps: Calls) -> None:
        self.number = number
        self._outcome = Outcome("waits")
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(calls, steps), daemon=True)
        self._thread.start()

    def _run(self, calls: LinuxCalls, steps: Calls) -> None:
        try:
            self._outcome = Outcome("ok", _drive(calls, steps))
        except OSError as failure:
            self._outcome = Outcome.failed(failure)
        except Exception as error:
            self._error = error
        self._ended.set()

    def settle(self) -> Outcome:
        """How the step ended, or that it waits for a userfaultfd, or that it does neither in time."""
        # Every wait for a userfaultfd is in a function of that name. A thread that was woken is in no function.
        channel = f"/proc/self/task/{self._thread.native_id}/wchan"
        for _ in range(int(DEADLINE / _LOOK_EVERY)):
            if self._ended.wait(_LOOK_EVERY):
                if self._error is not None:
                    raise self._error
                return self._outcome
            if "userfault" in _text(channel) and not self._ended.is_set():
                return Outcome("waits")
        return Outcome("never returns")


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""  # the thread has just ended


def _drive(calls: LinuxCalls, steps: Calls) -> Any:
    """Make the calls of an operation."""
    result: Any = None
    error: OSError | None = None
    while True:
        try:
            method, arguments = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        result, error = None, None
        try:
            result = getattr(calls, method)(*arguments)
        except OSError as failure:
            error = failure


class _Process:
    """The loop of one process."""

    def __init__(self, connection: Connection, arena: Place, descriptors: dict[str, int]) -> None:
        self._connection = connection
        self._arena = arena
        self._calls = _Calls()
        self._actor = Actor(self._calls.page_size, descriptors)
        self._threads: list[_Thread] = []

    def serve(self) -> None:
        """Answer requests until the connection closes; never returns."""
        while True:
            try:
                method, arguments = self._connection.recv()
                answer = getattr(self, method)(*arguments)
                self._connection.send(answer)
            except (EOFError, ConnectionError):
                os._exit(0)

    def perform(self, number: int, operation: str, arguments: tuple[Any, ...]) -> Outcome:
        """One step."""
        thread = _Thread(number, self._calls, self._actor.perform(operation, arguments))
        outcome = thread.settle()
        if outcome.kind == "waits":
            self._threads.append(thread)
        return outcome

    def resumed(self) -> Resumed:
        """The steps that waited and have ended since."""
        found = [(thread, thread.settle()) for thread in self._threads]
        self._threads = [thread for thread, outcome in found if outcome.kind == "waits"]
        return [(thread.number, outcome) for thread, outcome in found if outcome.kind != "waits"]

    def look(self) -> Observation:
        """What this process sees."""
        # Not peek: process_vm_readv(2) pins pages, and pinning ends the sharing of a page with a forked child.
        return Observer(self._calls, self._arena, self._calls.load).look()

    def fork(self) -> int:
        """Receive the child's end of a connection, then fork; returns the child's number."""
        connection = Connection(recv_handle(self._connection))
        with warnings.catch_warnings():
            # Threads that wait in a fault are the script's; the child has only this one.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._connection.close()
            _Process(connection, self._arena, self._actor.descriptors).serve()
        connection.close()
        return pid


def keep(connection: Connection) -> None:
    """Fork the first process, say its number, and wait for the end of the connection; then end everybody."""
    libc.check(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
    arena = connection.recv()
    first = Connection(recv_handle(connection))
    pid = os.fork()
    if pid == 0:
        connection.close()
        libc.check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        # One CPU: a page waits in a batch of the CPU that touched it, out of MADV_PAGEOUT's reach.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        _Process(first, arena, {}).serve()
    first.close()
    connection.send(pid)
    try:
        connection.recv()
    except (EOFError, ConnectionError):
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    os.setpgid(0, 0)
    # A signal is an observation; nobody wants its core.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep(Connection(int(sys.argv[1])))
