"""``LinuxWorld``: a child process of a zygote, driven over a socket; every call has a deadline."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np

from tests.conformance import machine
from tests.conformance.world import Need, Task, World, WorldLost
from writewatch.abi.calls import KernelCalls

DEADLINE_SECONDS = 20.0
_ROOT = pathlib.Path(__file__).parents[2]


def _pair() -> tuple[Connection, int]:
    ours, theirs = socket.socketpair()
    return Connection(ours.detach()), theirs.detach()


class Zygote:
    """The process that worlds are forked from: imports done once, no threads."""

    def __init__(self, library: pathlib.Path, directory: pathlib.Path) -> None:
        self.directory = directory
        self._connection, theirs = _pair()
        command = [sys.executable, "-m", "tests.conformance.server", str(theirs), str(library)]
        self._process = subprocess.Popen(command, pass_fds=[theirs], cwd=_ROOT)
        os.close(theirs)

    def world(self) -> LinuxWorld:
        """A new world: a child of the zygote."""
        ours, theirs = _pair()
        self._connection.send("world")
        reduction.send_handle(self._connection, theirs, self._process.pid)
        os.close(theirs)
        if not self._connection.poll(DEADLINE_SECONDS):
            raise WorldLost("the zygote did not fork a world in time")
        return LinuxWorld(ours, self._connection.recv(), self.directory)

    def close(self) -> None:
        """The zygote kills its process group when its connection ends."""
        self._connection.close()
        self._process.wait(DEADLINE_SECONDS)


class _RemoteCalls:
    """Any method name becomes a request."""

    def __init__(self, request: Callable[..., Any]) -> None:
        self._request = request
        self.page_size: int = request("__getattribute__", "page_size")
        self.huge_page_size: int = request("__getattribute__", "huge_page_size")

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            return self._request(method, *arguments)

        return call


class LinuxTask(Task):
    """A thread of the world's process."""

    def __init__(self, world: LinuxWorld, index: int, thread_id: int) -> None:
        self._world, self._index, self._thread_id = world, index, thread_id

    @property
    def thread_id(self) -> int:
        return self._thread_id

    def settle(self) -> bool:
        return bool(self._world.request("settle", self._index))

    def result(self) -> Any:
        returned, value = self._world.request("result", self._index)
        if not returned:
            raise value
        return value


class LinuxFork(Task):
    """A fork of the world's process by its main thread, watched from outside."""

    def __init__(self, world: LinuxWorld, child: Connection) -> None:
        self._world, self._child = world, child

    @property
    def thread_id(self) -> int:
        return self._world.pid

    def settle(self) -> bool:
        wait_channel = pathlib.Path(f"/proc/{self._world.pid}/wchan")
        while not self._world.has_answered():
            if "userfault" in wait_channel.read_text(encoding="ascii") and not self._world.has_answered():
                return False
            os.sched_yield()
        return True

    def result(self) -> Any:
        return self._world.adopt(self._child, self._world.answer("fork", ()))


class LinuxWorld(World):
    """A process that performs what it is asked over a connection."""

    kind = "linux"

    def __init__(self, connection: Connection, pid: int, directory: pathlib.Path) -> None:
        self._connection = connection
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._directory = directory
        self._children: list[World] = []
        self._n_files = 0
        self.calls = cast(KernelCalls, _RemoteCalls(self.request))

    # ---- the wire --------------------------------------------------------------------------------

    def request(self, method: str, *arguments: Any) -> Any:
        """One call in the world's process; structures and arrays are updated in place."""
        try:
            self._connection.send((method, arguments))
            return self.answer(method, arguments)
        except (EOFError, ConnectionError) as failure:
            raise WorldLost(f"the world ended during {method}") from failure

    def has_answered(self) -> bool:
        """Whether an answer waits to be read."""
        return self._connection.poll(0)

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Wait for the answer to the request that was sent last."""
        if not self._connection.poll(DEADLINE_SECONDS):
            self.close()
            raise WorldLost(f"{method} did not return within {DEADLINE_SECONDS:g} s")
        (returned, value), outputs = self._connection.recv()
        for ours, theirs in zip(arguments, outputs, strict=False):
            if isinstance(theirs, ctypes.Structure):
                ctypes.memmove(ctypes.byref(ours), ctypes.byref(theirs), ctypes.sizeof(theirs))
            elif isinstance(theirs, np.ndarray):
                ours[:] = theirs
        if not returned:
            raise value
        return value

    def batch(self, requests: Sequence[tuple[str, tuple[Any, ...]]]) -> list[tuple[bool, Any]]:
        answers: list[tuple[bool, Any]] = self.request("batch", list(requests))
        return answers

    # ---- what it has -----------------------------------------------------------------------------

    def lacks(self, need: Need) -> str:
        return machine.lacks(need)

    @property
    def pid(self) -> int:
        return self._pid

    # ---- threads and processes -------------------------------------------------------------------

    def spawn(self, method: str, *arguments: Any) -> Task:
        if method == "fork":
            return LinuxFork(self, self._hand_over())
        index, thread_id = self.request("spawn", method, arguments)
        return LinuxTask(self, index, thread_id)

    def fork(self) -> World:
        ours = self._hand_over()
        return self.adopt(ours, self.answer("fork", ()))

    def _hand_over(self) -> Connection:
        ours, theirs = _pair()
        self._connection.send(("fork", ()))
        reduction.send_handle(self._connection, theirs, self._pid)
        os.close(theirs)
        return ours

    def adopt(self, connection: Connection, pid: int) -> World:
        """The world at the other end of a connection that was handed to a child."""
        child = LinuxWorld(connection, pid, self._directory)
        self._children.append(child)
        return child

    def execute(self) -> None:
        self.request("execute")
        # exec has happened when the old mm's maps are gone: the new program is cat.
        while pathlib.Path(f"/proc/{self._pid}/comm").read_text(encoding="ascii").strip() != "cat":
            os.sched_yield()

    def drop_privileges(self) -> None:
        self.request("drop_privileges", 65534)

    def exit(self) -> None:
        """End this process alone: children live on, with their copies of its descriptors."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        _wait_for_end(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._connection.close()

    def send_descriptor(self, fd: int, other: World) -> int:
        self._connection.send(("send_descriptor", (fd,)))
        ours = reduction.recv_handle(self._connection)
        self.answer("send_descriptor", ())
        assert isinstance(other, LinuxWorld)
        try:
            return other.receive_descriptor(ours)
        finally:
            os.close(ours)

    def receive_descriptor(self, fd: int) -> int:
        """Give the world a copy of a descriptor of the test process."""
        self._connection.send(("receive_descriptor", ()))
        reduction.send_handle(self._connection, fd, self._pid)
        return int(self.answer("receive_descriptor", ()))

    # ---- calls that the library never makes ------------------------------------------------------

    def regular_file(self, length: int, *, writable: bool = True) -> int:
        self._n_files += 1
        path = self._directory / f"file-{self._pid}-{self._n_files}"
        return int(self.request("regular_file", str(path), length, os.O_RDWR if writable else os.O_RDONLY))

    def mlock(self, addr: int, length: int) -> None:
        self.request("mlock", addr, length)

    def memfd_secret(self) -> int:
        return int(self.request("memfd_secret"))

    def seal(self, fd: int, seals: int) -> None:
        self.request("seal", fd, seals)

    def page_out(self, addr: int, length: int) -> None:
        self.request("page_out", addr, length)

    def compact_memory(self) -> None:
        machine.compact_memory()

    def vm_flags(self, addr: int) -> frozenset[str]:
        return frozenset(self.request("vm_flags", addr))

    def store_faults(self, addr: int, data: bytes) -> int:
        return int(self.request("store_faults", addr, data))

    def touch(self, addresses: Sequence[int], value: int = 1) -> None:
        self.request("touch", list(addresses), value)

    def uffd_features(self, fd: int) -> int:
        return int(self.request("uffd_features", fd))

    # ---- end -------------------------------------------------------------------------------------

    def close(self) -> None:
        for child in self._children:
            child.close()
        self.exit()


def _wait_for_end(pidfd: int) -> None:
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if not poller.poll(DEADLINE_SECONDS * 1000):
        raise WorldLost("a world's process did not end after SIGKILL")
