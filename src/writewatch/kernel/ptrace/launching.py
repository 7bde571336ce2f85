"""``launch()``: a program whose memory is known from its first instruction on.

The helper process is its parent (``following.py``), so no right is needed but to start it. Its standard streams are
those given or our own, it is in our process group and in the foreground with us, and its exit status is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, Self, TypeAlias

from writewatch.errors import AttachError, KernelUnsupportedError, UsageError
from writewatch.kernel.ptrace import packets
from writewatch.kernel.ptrace.arguments import folder_of, variables_of, words_of
from writewatch.kernel.ptrace.attaching import Taken, sentence
from writewatch.kernel.ptrace.facts import read_facts
from writewatch.kernel.ptrace.registers import machine_of

_HELPER: Final = Path(__file__).with_name("helper.py")

#: What ``subprocess`` takes for a standard stream, without pipes: those are for the caller to make.
Stream = int | IO[Any] | None


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A process has an mm that is new, and is held until ``Launched.release(pid)``.

    Attributes:
        pid: The process.
        parent: Its parent.
        cause: ``exec``: it has become another program; ``fork``: it is a copy of its parent.
        taken: The userfaultfd of the mm; None when there is none.
        reason: Why there is none, in a sentence; empty otherwise.
    """

    pid: int
    parent: int
    cause: Literal["exec", "fork"]
    taken: Taken | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """A process will run no more, its mm is whole, and it is held until ``Launched.let_end(pid)``, or not for long.

    Attributes:
        pid: The process.
    """

    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A process has ended.

    Attributes:
        pid: The process.
        status: Its exit status; negative for the signal that ended it, as in ``subprocess``.
    """

    pid: int
    status: int


Event: TypeAlias = NewMemory | Ending | Ended


class Launched:
    """A program that was started, as a source of events. A context manager: leaving it is ``close()``.

    Attributes:
        pid: The program.
        exit_status: None until its end was seen by ``next_event()``.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._waiting: list[Event] = []
        self.exit_status: int | None = None
        self.pid = 0

    def fileno(self) -> int:
        """Readable when there is an event."""
        return self._socket.fileno()

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when there was none in time, or there will be no more.

        Whoever takes a ``NewMemory`` owns its descriptor and has to release the process.
        """
        if self._waiting:
            return self._waiting.pop(0)
        message, fd = self._receive(timeout_s)
        return self._event(message, fd) if message else None

    def release(self, pid: int) -> None:
        """Let a held process run. One that is not held, or has ended, is left alone."""
        self._say({"release": pid})

    def let_end(self, pid: int) -> None:
        """Let a process end that is held at its end. One that is not held there is left alone."""
        self._say({"end": pid})

    def _say(self, message: dict[str, Any]) -> None:
        try:
            packets.send(self._socket, message)
        except OSError:
            return  # the helper has ended, and holds nobody

    def close(self) -> None:
        """Let everything go: what is held runs, nothing is followed any more, the program lives on."""
        for event in self._waiting:
            if isinstance(event, NewMemory) and event.taken is not None:
                os.close(event.taken.fd)
        self._waiting.clear()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, timeout_s: float | None) -> tuple[dict[str, Any], int]:
        """An event and its descriptor; an empty one when there is none."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return {}, -1
        # A helper that ends with a word of ours unread resets the connection. Linux says so once, before it hands
        # out what the helper had sent (sock_error() in net/core/datagram.c): the end of the program, mostly.
        for _ in range(2):
            with contextlib.suppress(ConnectionError):
                return packets.receive(self._socket)
        return {}, -1

    def _event(self, message: dict[str, Any], fd: int) -> Event:
        pid = message["pid"]
        if message["event"] == "ended":
            if pid == self.pid:
                self.exit_status = message["status"]
            return Ended(pid, message["status"])
        if message["event"] == "ending":
            return Ending(pid)
        cause, parent = message["cause"], message["parent"]
        if "failed" in message:
            return NewMemory(pid, parent, cause, None, sentence(message, pid))
        notes = tuple(message["notes"])
        taken = Taken(fd, pid, 0, message["held_ns"], message["restores_itself"], notes)
        return NewMemory(pid, parent, cause, taken)

    def _await_start(self, command: str) -> None:
        """Until the program is held at its first instruction."""
        message, fd = self._receive(None)
        if not message:
            raise AttachError(f"the helper process that was to start {command} has died", 0)
        if message["event"] == "failed":
            if message["what"] == "exec":
                raise OSError(message["errno"], os.strerror(message["errno"]), command)
            raise AttachError(_not_traced(command, message["errno"]), 0)
        self.pid = message["pid"]
        self._waiting.append(self._event(message, fd))


def _not_traced(command: str, number: int) -> str:
    """Why a child may not be traced. One that a tracer of ours has got by itself has no room for another."""
    tracer = read_facts(os.getpid()).tracer
    if tracer is not None:
        return (
            f"{command} is traced already, as this process is, by {tracer[1]} (pid {tracer[0]}); "
            "run it on its own, or do not follow children there"
        )
    return (
        f"{command} may not be traced by its parent ({os.strerror(number)}): "
        "run outside of the container, or without the system call filter"
    )


def launch(
    argv: Sequence[str],
    *,
    follow_forks: bool = False,
    follow_exec: bool = False,
    end_patience_s: float = 0.0,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    pass_fds: Sequence[int] = (),
) -> Launched:
    """Start a program and hold it before its first instruction; the first event is its ``NewMemory``.

    Args:
        argv: The program, looked for along PATH, and its arguments.
        follow_forks: Also every process that descends from it, by whatever exec. No other debugger can trace them.
        follow_exec: Also what the program itself becomes by exec later.
        end_patience_s: How long each process that is followed is held when it ends, at most: an ``Ending`` comes of
            it. 0 for not at all.
        env: Its environment, by default ours.
        cwd: Its working directory, by default ours.
        stdin: As for ``subprocess.Popen``, without PIPE; so are the next two.
        stdout: Where it writes.
        stderr: Where it complains.
        pass_fds: Descriptors that it keeps.

    Raises:
        UsageError: There is no program in ``argv``, a word or a variable can be none, or a stream is PIPE.
        OSError: It cannot be executed, such as FileNotFoundError; there is no such working directory.
        AttachError: It may not be traced.
        KernelUnsupportedError: Attaching is not written for this architecture.
    """
    words = words_of(argv)
    if subprocess.PIPE in (stdin, stdout, stderr):
        raise UsageError("make a pipe with os.pipe() and pass its end instead of PIPE")
    if machine_of() is None or not sys.executable:
        raise KernelUnsupportedError(
            "launching is written for CPython on x86-64 and aarch64 alone", ("ptrace",)
        )
    specification = {
        "argv": words,
        # Ours too: the helper's interpreter may add to its own.
        "env": variables_of(os.environ if env is None else env),
        "cwd": folder_of(cwd),
        "forks": follow_forks,
        "execs": follow_exec,
        "end_patience_s": end_patience_s,
        "owner": os.getpid(),
        "pass_fds": list(pass_fds),
    }
    launched = Launched(_start(specification, (stdin, stdout, stderr), pass_fds))
    try:
        launched._await_start(words[0])
    except BaseException:
        launched.close()
        raise
    return launched


def _start(
    specification: dict[str, Any], streams: tuple[Stream, Stream, Stream], pass_fds: Sequence[int]
) -> socket.socket:
    ours, theirs = packets.pair()
    memory = os.memfd_create("program")
    try:
        with theirs:
            os.write(memory, json.dumps(specification).encode())
            os.lseek(memory, 0, os.SEEK_SET)
            subprocess.run(
                [sys.executable, "-I", "-S", str(_HELPER), str(theirs.fileno()), str(memory)],
                pass_fds=(theirs.fileno(), memory, *pass_fds),
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                check=False,
            )
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(memory)
    return ours
