"""Scripts on the running kernel: processes that make the calls, driven over a connection each.

A signal, a crash or a call that never returns ends such a process, and is an observation here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from types import TracebackType
from typing import Any, Final, Self

from writewatch.errors import WriteWatchError
from writewatch.observe.simulate.child import DEADLINE
from writewatch.observe.simulate.language import Step
from writewatch.observe.simulate.observation import Observation
from writewatch.observe.simulate.outcome import Outcome, Resumed
from writewatch.observe.simulate.parts import MAIN
from writewatch.observe.simulate.places import Place

_CHILD: Final = "writewatch.observe.simulate.child"
#: A step has ended, or has told that it has not, by then.
_PATIENCE: Final = 2 * DEADLINE


class _Ended(Exception):
    """The process ended before it answered."""


def _pair() -> tuple[Connection, int]:
    ours, theirs = socket.socketpair()
    return Connection(ours.detach()), theirs.detach()


class _Process:
    """One process: asked over its connection, watched through its pidfd."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self.connection, self.pid = connection, pid
        self._pidfd = os.pidfd_open(pid)

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer to a request; ``_Ended`` when there is none."""
        try:
            self.connection.send((method, arguments))
            return self.answer()
        except ConnectionError as lost:
            raise _Ended from lost

    def answer(self) -> Any:
        """Wait for the answer to the last request."""
        if not self.connection.poll(_PATIENCE):
            raise WriteWatchError(f"a process of the comparison gave no answer within {_PATIENCE:.0f} s")
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError) as lost:
            raise _Ended from lost

    def wait(self) -> None:
        """Until it has ended."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        poller.poll(_PATIENCE * 1000)

    def how_it_ended(self) -> int:
        """The signal that ended it, from its zombie."""
        self.wait()
        with open(f"/proc/{self.pid}/stat", "rb") as file:
            return int(file.read().rsplit(b")", 1)[1].split()[49]) & 0x7F

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.wait()
        self.close()

    def close(self) -> None:
        """Let go of a process that has ended."""
        self.connection.close()
        os.close(self._pidfd)


class LinuxSide:
    """The processes of a script on the running kernel. Leaving the context ends them all.

    Args:
        arena: Where the script's memory is.
    """

    def __init__(self, arena: Place) -> None:
        self._connection, theirs = _pair()
        command = [sys.executable, "-m", _CHILD, str(theirs)]
        self._keeper = subprocess.Popen(command, pass_fds=[theirs])
        os.close(theirs)
        self._connection.send(arena)
        ours, theirs = _pair()
        send_handle(self._connection, theirs, self._keeper.pid)
        os.close(theirs)
        self._processes = {MAIN: _Process(ours, self._connection.recv())}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process. Safe to repeat."""
        self._connection.close()
        self._keeper.wait(_PATIENCE)
        for process in self._processes.values():
            process.wait()
            process.close()
        self._processes = {}

    def perform(self, step: Step) -> Outcome:
        """Do what a step says."""
        process = self._processes.get(step.process)
        if process is None:
            return Outcome("not run")
        if step.operation == "exit":
            self._processes.pop(step.process).kill()
            return Outcome("ok")
        if step.operation == "fork":
            return self._fork(process, step.arguments[0])
        try:
            outcome: Outcome = process.ask("perform", step.number, step.operation, step.arguments)
        except _Ended:
            return self._lost(step.process)
        if outcome.ends_process:
            self._processes.pop(step.process).kill()
        return outcome

    def _fork(self, parent: _Process, name: str) -> Outcome:
        ours, theirs = _pair()
        parent.connection.send(("fork", ()))
        send_handle(parent.connection, theirs, parent.pid)
        os.close(theirs)
        self._processes[name] = _Process(ours, parent.answer())
        return Outcome("ok")

    def _lost(self, name: str) -> Outcome:
        """A process ended by itself: a signal."""
        process = self._processes.pop(name)
        number = process.how_it_ended()
        process.close()
        if not number:
            raise WriteWatchError("a process of the comparison failed; it told why above")
        return Outcome.killed(number)

    def resumed(self) -> Resumed:
        """The steps that waited and have ended since."""
        found: Resumed = []
        for name, process in list(self._processes.items()):
            try:
                found += process.ask("resumed")
            except _Ended:
                # Which of its threads met the signal cannot be told: one that waited.
                found.append((0, self._lost(name)))
        return found

    def look(self) -> dict[str, Observation]:
        """What every process sees."""
        return {name: process.ask("look") for name, process in self._processes.items()}
