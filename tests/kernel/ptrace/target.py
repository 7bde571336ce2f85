"""Small C programs as targets: compiled once a run, started, spoken to, and killed when their test ends."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from writewatch.kernel.ptrace.asking import Answer, HelperGoneError, ask

_SOURCES = Path(__file__).with_name("targets")
COMPILER = shutil.which("gcc") or shutil.which("cc")
#: Lines of /proc/PID/status that an attach must leave as they were.
_SIGNALS = re.compile(r"^(Sig(?:Blk|Ign|Cgt)):\s*(\w+)$", re.MULTILINE)


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="writewatch-targets-")


@functools.cache
def program(name: str) -> str:
    """Path of a compiled target. Anybody may run it."""
    if COMPILER is None:
        pytest.skip("there is no C compiler to make targets with")
    directory = Path(_directory().name)
    directory.chmod(0o755)
    path = directory / name
    command = [COMPILER, "-O1", "-w", "-pthread", "-o", str(path), str(_SOURCES / f"{name}.c"), "-lrt"]
    subprocess.run(command, check=True, capture_output=True)
    return str(path)


class Target:
    """A target that runs; a context manager that kills it.

    Attributes:
        pid: Its process.
        tid: Which thread said that it is ready.
    """

    def __init__(self, name: str, *words: str, awaits_ready: bool = True) -> None:
        self._process = subprocess.Popen(
            [program(name), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid
        self.tid = int(self.line().split()[1]) if awaits_ready else self.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]

    def line(self) -> str:
        """The next line it says, empty when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def say(self) -> None:
        """Give it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit status; it has to end by itself."""
        return self._process.wait(30)

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def signals(self) -> dict[str, str]:
        """The sets of signals that it blocks, ignores and handles."""
        return dict(_SIGNALS.findall(self.status()))

    def status(self) -> str:
        """Its ``/proc/PID/status``."""
        return Path(f"/proc/{self.pid}/status").read_text()

    def state(self) -> str:
        """Letter of its state."""
        match = re.search(r"^State:\s*(\w)", self.status(), re.MULTILINE)
        assert match is not None
        return match[1]

    def await_state(self, letters: str) -> None:
        """Wait until it is in one of these states: the only way to see another process arrive there is to look."""
        while self.state() not in letters:
            assert self.is_alive

    def await_syscall(self) -> None:
        """Wait until it sleeps in a system call."""
        while True:
            first = Path(f"/proc/{self.pid}/syscall").read_text().split()[0]
            if first != "running" and self.state() == "S":
                return
            assert self.is_alive

    def await_running(self) -> None:
        """Wait until it has used the processor for a tick: it is in its loop by then."""
        while Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[11] == "0":
            assert self.is_alive

    def is_untraced(self) -> None:
        """Assert that nobody traces it."""
        assert "TracerPid:\t0" in self.status()


def request(
    pid: int, tid: int, *, do: str = "take", deadline_s: float = 5.0, beside: int = -1, **more: Any
) -> tuple[Answer, int]:
    """Ask the helper about one thread, without judging first which is best."""
    return ask({"do": do, "pid": pid, "tid": tid, **more}, deadline_s, beside)


def have_a_helper() -> None:
    """Start one if there is none: on a busy machine that takes longer than some targets sleep."""
    ask({"do": "touch", "pid": os.getpid(), "tid": os.getpid()}, 5.0)


def kill_helper_at(point: str, pid: int, tid: int) -> None:
    """Have the helper die by SIGKILL at one point of its work."""
    try:
        answer, _ = request(pid, tid, kill_at=point)
    except HelperGoneError:
        return
    pytest.fail(f"the helper lived on, and answered {answer}")


SIGSTOP, SIGCONT = signal.SIGSTOP, signal.SIGCONT
