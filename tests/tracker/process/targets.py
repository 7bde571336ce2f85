"""Processes to be watched: a Python child that runs lines of code, and C programs compiled on the spot.

Every line is answered when it has been run, so that nothing is waited for by time.
"""

from __future__ import annotations

import array
import ast
import atexit
import contextlib
import functools
import mmap
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self, cast

import pytest

from writewatch.pages import Runs, clip, expand
from writewatch.tracker.process.writes import ProcessWrites

PAGE = mmap.PAGESIZE

_CHILD = r"""
import array, ctypes, gc, mmap, os, signal, socket, sys, threading
gc.disable()
P = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.sbrk.argtypes = [ctypes.c_long]
NONE, R, RW = 0, 1, 3
SHARED, PRIVATE, FIXED, ANON, NORESERVE = 1, 2, 0x10, 0x20, 0x4000

def ok(result):
    assert result not in (-1, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
    return result

def memory(pages, prot=RW, flags=PRIVATE | ANON, fd=-1, at=None):
    start = ok(libc.mmap(at, pages * P, prot, flags, fd, 0))
    libc.madvise(start, pages * P, 15)  # MADV_NOHUGEPAGE: pages come alone also where huge ones are always given
    return start

def poke(at, *pages, value=1):
    for page in pages:
        ctypes.memset(at + page * P, value, 1)

def peek(at, *pages):
    for page in pages:
        ctypes.string_at(at + page * P, 1)

def uffd():
    return libc.syscall(323, os.O_CLOEXEC | os.O_NONBLOCK | 1)

def give_uffd(number):
    fd = uffd()
    with socket.socket(fileno=os.dup(number)) as s:
        s.sendmsg([b"u"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    os.close(fd)

print(repr(os.getpid()), flush=True)
for line in sys.stdin:
    code = compile(line.encode().decode("unicode_escape"), "line", "exec")
    answer = None
    exec(code)
    print(repr(answer), flush=True)
"""


class Target:
    """A Python child that runs what it is told; ended by force when left."""

    def __init__(self, *, user: int | None = None) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[theirs.fileno()],
                user=user,
            )
            self._theirs = theirs.fileno()
        self.pid: int = self._answer()

    def run(self, code: str) -> Any:
        """Run code in the child, and what it left in ``answer``."""
        stdin = cast(IO[str], self.process.stdin)
        stdin.write(code.replace("\\", "\\\\").replace("\n", "\\n") + "\n")
        stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = cast(IO[str], self.process.stdout).readline()
        assert line, "the child has ended"
        return ast.literal_eval(line)

    def memory(self, pages: int, *arguments: str) -> int:
        """Map pages in the child; their address."""
        wide = ", ".join(["answer = memory(" + str(pages), *arguments]) + ")"
        address: int = self.run(wide)
        return address

    def take(self, pid: int) -> HandedOver:
        """A userfaultfd that the child makes itself and passes on."""
        assert pid == self.pid
        self.run(f"give_uffd({self._theirs})")
        _, ancillary, _, _ = self._socket.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        descriptors.frombytes(ancillary[0][2])
        return HandedOver(descriptors[0])

    def close(self) -> None:
        """End the child."""
        self.process.kill()
        self.process.wait()
        self._socket.close()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                cast(IO[str], stream).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class HandedOver:
    """A userfaultfd that was given and not taken."""

    fd: int
    notes: tuple[str, ...] = ()


def pages_in(runs: Runs, start: int, n_pages: int) -> list[int]:
    """Which pages of a mapping are in some runs, as numbers inside it."""
    first = start // PAGE
    return [int(page) - first for page in expand(clip(runs, first, first + n_pages))]


def reported(writes: ProcessWrites, start: int, n_pages: int) -> list[int]:
    """Which pages of a mapping a report has, in whatever part."""
    return pages_in(writes.page_runs, start, n_pages)


@functools.cache
def compiled(source: pathlib.Path) -> pathlib.Path:
    """A C program, compiled once a session."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="writewatch-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    program = directory / source.stem
    try:
        subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True)
    except FileNotFoundError:
        pytest.skip("the truth is a C program, and there is no gcc to compile it")
    return program


def vm_lines(pid: int, *keys: str) -> dict[str, int]:
    """Lines of ``/proc/PID/status`` in bytes, such as VmPTE."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return {key: int(lines[key].split()[0]) * 1024 for key in keys}


def n_armed(pid: int) -> int:
    """How many VMAs are registered for write-protection."""
    return sum(" uw" in line for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines())


def is_running(process: subprocess.Popen[Any]) -> bool:
    """Whether a child goes on, untraced and not stopped."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    state = status.partition("State:\t")[2][0]
    return state in "RS" and "TracerPid:\t0" in status and process.poll() is None
