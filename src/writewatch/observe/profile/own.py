"""Watching the whole of this process: by a helper process, with a userfaultfd that this process makes."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
from typing import Final

from writewatch.errors import AttachError, KernelUnsupportedError, TrackingLostError
from writewatch.kernel.default import default_calls
from writewatch.kernel.probe import capabilities
from writewatch.observe.profile.helper import Request, receive
from writewatch.tracker.process.writes import ProcessWrites

_UFFD_USER_MODE_ONLY: Final = 1
_PROGRAM: Final = (
    "import sys; sys.path[:] = {path!r}; from writewatch.observe.profile.helper import main; main({fd})"
)


class OwnProcess:
    """Watches this process from its construction until ``stop()``.

    Args:
        interval_s: Seconds of an epoch.
        budget: Share of one core that watching may cost; None: any.

    Raises:
        KernelUnsupportedError: There is no userfaultfd for this process.
        AttachError: The helper process cannot look at this one, and why.
    """

    def __init__(self, interval_s: float, budget: float | None) -> None:
        capability = capabilities()["uffd_wp_async"]
        if not capability.works:
            raise KernelUnsupportedError(
                f"a whole process is watched by userfaultfd alone: {capability.detail}; {capability.mend}; "
                "profile(buffer, …) watches buffers by other means",
                ("uffd_wp_async",),
            )
        self._owner = os.getpid()
        ours, theirs = socket.socketpair()
        with theirs:
            self._helper = _start(theirs.fileno())
        self._connection = ours
        try:
            self._hand_over(Request(os.getpid(), interval_s, budget))
        except BaseException:
            self._end()
            raise

    def stop(self) -> list[ProcessWrites]:
        """The epochs, oldest first; the last one ends now. Call it once.

        Raises:
            TrackingLostError: The helper process has ended, or this is a fork of the process that is watched.
        """
        if os.getpid() != self._owner:
            self._connection.close()
            raise TrackingLostError(
                f"process {os.getpid()} was forked from {self._owner} inside of the block and is not watched; "
                "begin another profile() here"
            )
        try:
            self._connection.sendall(b".")
            epochs = receive(self._connection)
        except (OSError, EOFError) as error:
            raise TrackingLostError("the helper process that watched this one has ended early") from error
        finally:
            self._end()
        assert isinstance(epochs, list)
        return epochs

    def _hand_over(self, request: Request) -> None:
        fd = default_calls().userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK | _UFFD_USER_MODE_ONLY)
        try:
            socket.send_fds(self._connection, [pickle.dumps(request)], [fd])
        finally:
            os.close(fd)  # a child that is forked from here inherits nothing
        try:
            refusal = receive(self._connection)
        except EOFError as error:
            raise AttachError("the helper process has ended; its error is on stderr", os.getpid()) from error
        if refusal is not None:
            raise AttachError(f"the helper process cannot look at this one: {refusal}", os.getpid())

    def _end(self) -> None:
        self._connection.close()  # which ends the helper, whatever it does
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._helper.wait(5)
            return
        self._helper.kill()
        self._helper.wait()


def _start(fd: int) -> subprocess.Popen[bytes]:
    program = _PROGRAM.format(path=sys.path, fd=fd)
    return subprocess.Popen([sys.executable, "-c", program], pass_fds=(fd,), stdin=subprocess.DEVNULL)
