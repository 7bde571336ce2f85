"""Owning a userfaultfd: opened or adopted, shaken hands with once, closed once.

A descriptor is bound to the mm of its creator for life: used in a forked child, or by a process that
received it, it acts on the creator's memory. Truth: ``userfaultfd_release()`` in ``fs/userfaultfd.c``.
"""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Self

from writewatch.abi.calls import KernelCalls
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC, feature_names
from writewatch.errors import UsageError
from writewatch.kernel.default import default_calls
from writewatch.kernel.opening import Device, enabled_features, handshake, open_userfaultfd
from writewatch.kernel.owning import Uncopied, is_identity, not_ours
from writewatch.kernel.ranges import checked_number
from writewatch.kernel.readiness import Readiness


class Descriptor(Uncopied):
    """The part of ``Userfaultfd`` that owns the descriptor; see there."""

    _fd = -1  # also what close() and __del__ see when __init__ raised before it had one
    _identity: tuple[int, int] | None = None

    def __init__(
        self,
        features: int = 0,
        *,
        user_mode_only: bool = True,
        nonblocking: bool = True,
        device: Device = "auto",
        calls: KernelCalls | None = None,
    ) -> None:
        chosen = default_calls() if calls is None else calls
        self._adopt(chosen)
        # No call between the opening and this attribute, so that no signal handler can come between them.
        self._fd = open_userfaultfd(
            chosen, user_mode_only=user_mode_only, nonblocking=nonblocking, device=device
        )
        self._shake_hands(features)

    @classmethod
    def from_fd(
        cls,
        fd: int,
        features: int | None = None,
        *,
        fresh: bool = False,
        calls: KernelCalls | None = None,
    ) -> Self:
        """Adopt a descriptor that came from elsewhere: SCM_RIGHTS, pidfd_getfd(2), inherited.

        The object owns it from now on, also when this raises.

        Args:
            fd: A userfaultfd of any process. Every range given later is in that process's memory.
            features: What is enabled on it; None reads that from ``/proc/self/fdinfo``.
            fresh: The handshake is still to be done, with these features. ``features`` of a descriptor that
                is not fresh has to be believed: Linux tells what the kernel has only in the handshake,
                so the attribute ``features`` is then what is enabled.
            calls: What to ask, by default the running kernel.
        """
        chosen = default_calls() if calls is None else calls
        self = cls.__new__(cls)
        self._fd = fd
        self._adopt(chosen)
        if fresh:
            self._shake_hands(features or 0)
            return self
        try:
            self._identity = self._calls.identity(fd)
            self.enabled = enabled_features(fd) if features is None else checked_number("features", features)
        except BaseException:
            self.close()
            raise
        self.features, self.ioctls = self.enabled, 0
        return self

    def _of_child(self, fd: int) -> Self:
        """The handle of a forked child: Linux gives it the features of its parent."""
        child = self.from_fd(fd, self.enabled, calls=self._calls)
        child.features, child.ioctls = self.features, self.ioctls
        return child

    def _adopt(self, calls: KernelCalls) -> None:
        self._calls = calls
        self._page_size = calls.page_size
        self._readiness = Readiness()

    def _shake_hands(self, features: int) -> None:
        try:
            self._identity = self._calls.identity(self._fd)
            wanted = checked_number("features", features)
            answer = handshake(self._calls, self._fd, wanted)
        except BaseException:
            self.close()
            raise
        self.features, self.enabled, self.ioctls = answer.features, wanted, answer.ioctls

    @property
    def is_async(self) -> bool:
        """Whether Linux resolves write-protect faults by itself (``UFFD_FEATURE_WP_ASYNC``)."""
        return bool(self.enabled & UFFD_FEATURE_WP_ASYNC)

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._fd < 0

    @property
    def is_ours(self) -> bool:
        """Whether the descriptor is open and still of the userfaultfd that the object was made with."""
        if self._fd < 0 or self._identity is None:
            return self._fd >= 0
        return is_identity(self._calls, self._fd, self._identity)

    def check_ours(self) -> None:
        """Raise OSError (EBADF) where the program has closed the descriptor; asking costs 0.7 µs, so it is asked for.

        Before v5.12 all of Linux's anonymous files were one: another userfaultfd, or an epoll, is not told from ours.
        """
        if not self.is_ours:
            raise not_ours(self.fileno())

    def fileno(self) -> int:
        """The descriptor, still owned by the object."""
        if self._fd < 0:
            raise UsageError("this Userfaultfd is closed; open another")
        return self._fd

    def close(self) -> None:
        """Close the descriptor; a second call does nothing.

        Every registration made through it ends, uffd-wp bits are cleared, blocked threads go on without an
        error, and a task that waits in ``messages()`` sees the end. Linux does nothing of that while another
        process holds the descriptor too, nor before a thread that is in ``poll()`` or in a blocking ``read()``
        has come back from there: closing does not end its waiting, the next message or its timeout does.
        """
        if self._fd < 0:
            return
        self._readiness.end(self._fd)
        if not self.is_ours:
            self._fd = -1  # whatever it is now, somebody else closes it
            return
        # Looked up first: once the number is forgotten, no signal handler may run before it is closed.
        close = self._calls.close
        fd, self._fd = self._fd, -1
        if fd >= 0:  # another thread may have closed it meanwhile
            close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._fd >= 0:
            try:
                warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=1, source=self)
            finally:
                self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<Userfaultfd closed>"
        names = ", ".join(feature_names(getattr(self, "enabled", 0)))
        return f"<Userfaultfd fd={self._fd} {names or 'no features'}>"
