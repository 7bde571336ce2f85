"""System-wide settings that tests change for a while, also when several sessions run side by side."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Callable


class Borrowed:
    """A setting shared by several sessions: the last one puts the first value back.

    Two lock files: one is held shared for as long as a session uses the setting, and keeps the value of
    before (a session that was killed leaves it there for the next); the other makes taking and giving
    back one step each.
    """

    def __init__(self, name: str) -> None:
        base = pathlib.Path(tempfile.gettempdir()) / f"writewatch-conformance-{os.getuid()}-{name}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._use = os.open(base, flags, 0o600)
        self._step = os.open(f"{base}.step", flags, 0o600)

    def take(self, read: Callable[[], str], change: Callable[[], None]) -> None:
        """Remember the value unless a session has already, change it, and hold it."""
        fcntl.flock(self._step, fcntl.LOCK_EX)
        try:
            if not os.pread(self._use, 1, 0):
                os.pwrite(self._use, read().encode(), 0)
            change()
            fcntl.flock(self._use, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._step, fcntl.LOCK_UN)

    def give_back(self, restore_to: Callable[[str], None]) -> None:
        """Let go; without another session, put the value back."""
        fcntl.flock(self._step, fcntl.LOCK_EX)
        fcntl.flock(self._use, fcntl.LOCK_UN)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if before := os.pread(self._use, 4096, 0).decode():
                restore_to(before)
                os.ftruncate(self._use, 0)
        os.close(self._use)
        os.close(self._step)
