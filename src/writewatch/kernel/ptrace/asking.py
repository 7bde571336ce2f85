"""The helper process, seen from its owner: started when first needed, kept for a while, replaced when it has died.

One helper serves one request at a time. It was started with rights of that moment, so one whose owner has changed its
user or capabilities since is not used any more. A forked child starts its own.
"""

from __future__ import annotations

import atexit
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from writewatch.errors import KernelUnsupportedError
from writewatch.kernel.ptrace import packets
from writewatch.kernel.refusals import surroundings

_HELPER: Final = Path(__file__).with_name("helper.py")
#: After its deadline a helper may still be putting a thread back to how it was.
_GRACE_S: Final = 1.0
_START_S: Final = 30.0

Answer = dict[str, Any]


class HelperGoneError(Exception):
    """The helper died while it served: at its deadline, before it had changed anything."""


class Helper:
    """One helper process and the socket to it."""

    def __init__(self) -> None:
        if not sys.executable:
            raise KernelUnsupportedError(
                "attaching takes a helper process, and this Python does not know its own interpreter",
                ("ptrace",),
            )
        self.rights = _rights()
        self._process = -1
        self._socket, theirs = packets.pair()
        try:
            with theirs:
                subprocess.run(
                    [sys.executable, "-I", "-S", str(_HELPER), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # not meant by a signal to the process group
                    check=False,
                )
            self._process = self._hello()
        except BaseException:
            self.close()
            raise

    def _hello(self) -> int:
        """A pidfd of it, by the number that it sends when it is ready."""
        self._socket.settimeout(_START_S)
        try:
            hello, _ = packets.receive(self._socket)
            return os.pidfd_open(hello["pid"])
        except (OSError, KeyError) as error:
            raise HelperGoneError from error

    def ask(self, request: Mapping[str, Any], wait_s: float, beside: int = -1) -> tuple[Answer, int]:
        """One request; the answer and a descriptor that is the caller's, -1 for none.

        Raises:
            HelperGoneError: It died, or has to be left alone; use another.
        """
        try:
            self._socket.settimeout(wait_s)
            packets.send(self._socket, request, beside)
            answer, fd = packets.receive(self._socket)
        except OSError as error:
            self._await_end()
            raise HelperGoneError from error
        if not answer:
            self._await_end()
            raise HelperGoneError
        return answer, fd

    def _await_end(self) -> None:
        """Its files are closed before Linux detaches what it traced; only then is nobody traced any more."""
        poller = select.poll()
        poller.register(self._process, select.POLLIN)
        poller.poll(_GRACE_S * 1000)

    def close(self) -> None:
        """Let it end."""
        self._socket.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1


def _rights() -> tuple[object, ...]:
    here = surroundings()
    return os.getpid(), os.getresuid(), os.getresgid(), here.effective, here.filtered


_lock = threading.Lock()
_idle: Helper | None = None


def ask(request: Mapping[str, Any], deadline_s: float, beside: int = -1) -> tuple[Answer, int]:
    """Have a helper serve a request; see ``Helper.ask``. Another thread's request waits for this one."""
    global _idle  # noqa: PLW0603 - one helper for the process, like one connection of a pool
    with _lock:
        helper, _idle = _idle, None
        if helper is not None and helper.rights != _rights():
            helper.close()
            helper = None
        while True:
            fresh = helper is None
            helper = helper or Helper()
            try:
                answer = helper.ask({**request, "deadline_s": deadline_s}, deadline_s + _GRACE_S, beside)
            except BaseException as error:
                helper.close()
                helper = None
                if fresh or not isinstance(error, HelperGoneError) or not _had_gone(error):
                    raise
            else:
                _idle = helper
                return answer


def _had_gone(error: HelperGoneError) -> bool:
    """Whether a helper that had been idle for too long ended before it read the request."""
    return isinstance(error.__cause__, BrokenPipeError | ConnectionResetError)


def _forget() -> None:
    """In a forked child: the parent's helper must see its owner die."""
    global _lock, _idle  # noqa: PLW0603
    _lock = threading.Lock()
    if _idle is not None:
        _idle.close()
    _idle = None


@atexit.register
def _let_go() -> None:
    """At the end of the program: a socket that is still open then is complained of (ResourceWarning)."""
    global _idle  # noqa: PLW0603
    with _lock:
        if _idle is not None:
            _idle.close()
        _idle = None


os.register_at_fork(after_in_child=_forget)
