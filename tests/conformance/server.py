"""What runs in the child processes of a ``LinuxWorld``: a zygote that forks worlds, and a world's loop.

``python -m tests.conformance.server FD LIBRARY`` is the zygote: warm imports, no threads, its own process
group. Each message over a connection is one request and is answered once; a fork sends the new
connection's descriptor first. A world that loses its connection ends.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tests.conformance.access import Access
from tests.conformance.world import MemorySignal
from tests.differential.arena import Operation, Outcome
from tests.differential.executor import Executor
from writewatch.abi.mman import MADV_PAGEOUT
from writewatch.kernel import libc
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.maps import read_smaps

_PR_SET_PDEATHSIG = 1
_BUSY_S = 1.0  # longer than a page takes to reach a swap area


def _wait_for_writeback() -> None:
    """Until the disks of the machine are quiet, or somebody has kept them busy for too long."""
    ends = time.monotonic() + _BUSY_S
    while time.monotonic() < ends and b"\nnr_writeback 0\n" not in pathlib.Path("/proc/vmstat").read_bytes():
        os.sched_yield()


class Calls(LinuxCalls):
    """The calls of this process, with accesses whose signals are observations."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access
        self._libc = ctypes.CDLL(None, use_errno=True)

    def load(self, addr: int, length: int) -> bytes:
        return self._access.load(addr, length)

    def store(self, addr: int, data: bytes) -> None:
        self._access.store(addr, data)

    def store_faults(self, addr: int, data: bytes) -> int:
        # A fresh child still copies its own stack on write; the first store takes those faults.
        scratch = ctypes.create_string_buffer(len(data))
        self._access.store(ctypes.addressof(scratch), data)
        return self._access.store(addr, data)

    def page_out(self, addr: int, length: int) -> None:
        # A page waits in a per-CPU batch before it is on an LRU list, where MADV_PAGEOUT cannot take it;
        # the call drains the batch of the CPU it runs on. Nor can it take one that is still being written to the swap
        # area from the last time.
        _wait_for_writeback()
        allowed = os.sched_getaffinity(0)
        for cpu in allowed:
            os.sched_setaffinity(0, {cpu})
            self.madvise(addr, length, MADV_PAGEOUT)
        os.sched_setaffinity(0, allowed)

    def touch(self, addresses: list[int], value: int) -> None:
        self._access.touch(addresses, value)

    def mlock(self, addr: int, length: int) -> None:
        libc.check(self._libc.mlock(ctypes.c_void_p(addr), ctypes.c_size_t(length)), "mlock")

    def memfd_secret(self) -> int:
        return int(libc.check(self._libc.syscall(ctypes.c_long(447), ctypes.c_uint(0)), "memfd_secret"))

    def seal(self, fd: int, seals: int) -> None:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)

    def vm_flags(self, addr: int) -> frozenset[str]:
        return next(entry.flags for entry in read_smaps() if entry.vma.start <= addr < entry.vma.end)

    def uffd_features(self, fd: int) -> int:
        text = pathlib.Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
        return int(text.split("API:")[1].split(":")[1], 16)

    def regular_file(self, path: str, length: int, flags: int) -> int:
        with open(path, "wb") as file:
            file.truncate(length)
        fd = os.open(path, flags | os.O_CLOEXEC)
        os.unlink(path)
        return fd

    def differential_file(self, length: int) -> int:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
        os.ftruncate(fd, length)
        return fd

    def drop_privileges(self, uid: int) -> None:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)


class _Thread:
    """One call in a thread, and where that thread waits."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.outcome: tuple[bool, Any] | None = None
        self._ended = threading.Event()
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.thread_id = self._thread.native_id

    def _run(self) -> None:
        self.outcome = _attempt(self._call)
        self._ended.set()

    def settle(self) -> bool:
        # Linux says where a thread sleeps; every wait for a userfaultfd is in a function of that name.
        wait_channel = pathlib.Path(f"/proc/self/task/{self.thread_id}/wchan")
        while not self._ended.is_set():
            try:
                channel = wait_channel.read_text(encoding="ascii")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "userfault" in channel and not self._ended.is_set():
                return False
            os.sched_yield()
        return True

    def result(self) -> tuple[bool, Any]:
        self._ended.wait()
        assert self.outcome is not None
        return self.outcome


def _attempt(call: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, call()
    except (OSError, MemorySignal, ValueError, TypeError, AttributeError, StopIteration) as failure:
        return False, failure


class Server:
    """The loop of one world."""

    def __init__(self, connection: Connection, calls: Calls) -> None:
        self._connection = connection
        self._calls = calls
        self._threads: list[_Thread] = []
        self._executor: Executor | None = None

    def serve(self) -> None:
        """Answer requests until the connection closes; never returns."""
        while True:
            try:
                method, arguments = self._connection.recv()
                answer = _attempt(lambda: self._perform(method, arguments))  # noqa: B023
                self._connection.send((answer, _outputs(arguments)))
            except (EOFError, ConnectionError):
                os._exit(0)

    def _perform(self, method: str, arguments: tuple[Any, ...]) -> Any:
        own = getattr(self, f"do_{method}", None)
        return own(*arguments) if own is not None else getattr(self._calls, method)(*arguments)

    def do_batch(self, requests: list[tuple[str, tuple[Any, ...]]]) -> list[tuple[bool, Any]]:
        return [_attempt(lambda: getattr(self._calls, m)(*a)) for m, a in requests]  # noqa: B023

    def do_fork(self) -> int:
        """Receives the child's end of a connection, then forks; the child serves on it."""
        connection = Connection(reduction.recv_handle(self._connection))
        with warnings.catch_warnings():
            # Threads blocked in a fault are what some cases are about; the child has only this one.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._connection.close()
            child = Server(connection, self._calls)
            if self._executor is not None:
                ours = self._executor
                child._executor = Executor(self._calls, ours.descriptors, ours.regular)
            child.serve()
        connection.close()
        return pid

    def do_spawn(self, method: str, arguments: tuple[Any, ...]) -> tuple[int, int | None]:
        thread = _Thread(lambda: getattr(self._calls, method)(*arguments))
        self._threads.append(thread)
        return len(self._threads) - 1, thread.thread_id

    def do_settle(self, index: int) -> bool:
        return self._threads[index].settle()

    def do_result(self, index: int) -> tuple[bool, Any]:
        return self._threads[index].result()

    def do_send_descriptor(self, fd: int) -> None:
        reduction.send_handle(self._connection, fd, os.getpid())

    def do_receive_descriptor(self) -> int:
        return reduction.recv_handle(self._connection)

    def do_begin_operations(self) -> None:
        """From here on the process performs the operations of tests/differential, on one CPU.

        One CPU: a page waits in a batch of the CPU that touched it, out of MADV_PAGEOUT's reach.
        """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        self._executor = Executor(self._calls)

    def do_run_operations(self, operations: list[Operation]) -> list[Outcome]:
        assert self._executor is not None
        return self._executor.run(operations)

    def do_execute(self) -> None:
        """The new program holds the connection open and reads it until its end."""
        os.set_inheritable(self._connection.fileno(), True)
        self._connection.send(((True, None), ()))
        os.dup2(self._connection.fileno(), 0)
        os.execvp("cat", ["cat"])


def _outputs(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call may have changed in place: structures and arrays."""
    return tuple(a if isinstance(a, ctypes.Structure | np.ndarray) else None for a in arguments)


def zygote(connection: Connection, calls: Calls) -> None:
    """Fork a world for each descriptor received, until the connection closes; then end them all."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        try:
            connection.recv()
        except (EOFError, ConnectionError):
            os.killpg(0, signal.SIGKILL)
        handle = reduction.recv_handle(connection)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            libc.check(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
            if os.getppid() != parent:
                os._exit(0)
            connection.close()
            Server(Connection(handle), calls).serve()
        os.close(handle)
        connection.send(pid)


if __name__ == "__main__":
    os.setpgid(0, 0)
    zygote(Connection(int(sys.argv[1])), Calls(Access(sys.argv[2])))
