r"""Signals while a program of ours runs: they behave as if the shell had started it.

Ctrl-C and Ctrl-\ go from the terminal to the whole foreground process group, so the program has got them
already: we stay, and end when it does. Whatever was sent to us alone (kill(1), a supervisor) is passed on.
Handlers are functions, not ``SIG_IGN``: exec resets the former and would let the program inherit the latter.
What was ignored when we were started stays so for both. See signal(7), credentials(7) and tcgetpgrp(3).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_PASSED: Final = (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_OF_TERMINALS: Final = (signal.SIGINT, signal.SIGQUIT)


class Recipient:
    """The process that signals are passed on to, once it is known; earlier ones wait for it."""

    def __init__(self) -> None:
        self._pidfd: int | None = None  # a number might be another process by the time
        self._waiting: list[int] = []

    def is_process(self, pid: int) -> None:
        """From now on it is this one."""
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(pid)
        while self._waiting:
            self.send(self._waiting.pop(0))

    def send(self, number: int) -> None:
        """Pass a signal on; one that comes too late is dropped."""
        if self._pidfd is None:
            self._waiting.append(number)
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Forget the process."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


@contextmanager
def passing_signals_on() -> Iterator[Recipient]:
    """Inside, signals do not end this process. Only in the main thread; what was set before is set again."""
    recipient = Recipient()

    def handle(number: int, _frame: FrameType | None) -> None:
        if number not in _OF_TERMINALS or not is_in_foreground():
            recipient.send(number)

    before: dict[signal.Signals, Any] = {}
    for number in (*_PASSED, *_OF_TERMINALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield recipient
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        recipient.close()


def is_in_foreground() -> bool:
    """Whether our process group is the one that a terminal sends its signals to."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False  # no terminal, so it was not the terminal
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
