"""``Userfaultfd``: one owned userfaultfd with every ioctl, feature and message of Linux 6.18.

Two rules. The object owns its descriptor from the first instruction to ``close()``: nothing leaks, also when
the handshake is refused. And nothing that the kernel says is lost: bytes done come back, a result that
stopped half-way carries them, and no negative errno is ever returned as a length.

A descriptor is bound to the mm of its creator for life: used in a forked child, or by a process that
received it, it acts on the creator's memory. Truth: ``fs/userfaultfd.c``; userfaultfd(2),
ioctl_userfaultfd(2).
"""

from __future__ import annotations

import math
import select
from collections.abc import AsyncIterator
from typing import Final, SupportsIndex

from writewatch.abi import userfaultfd as abi
from writewatch.errors import UsageError
from writewatch.kernel.messages import Message, decode
from writewatch.kernel.owning import not_ours
from writewatch.kernel.resolving import Resolving

_LONGEST_MS: Final = (1 << 31) - 1  # poll(2) takes an int


class Userfaultfd(Resolving):
    """An open userfaultfd, handshake done.

    Close it, or use it in a ``with`` statement: closing ends every registration, clears their uffd-wp bits
    and wakes every thread that waits. One that is forgotten says so with a ResourceWarning. Threads may
    share one object.

    Args:
        features: ``UFFD_FEATURE_*`` bits to enable, for the life of the descriptor.
        user_mode_only: Do without faults that the kernel itself takes. Then no privilege is needed, and
            asynchronous write-protection loses nothing; in synchronous mode a system call that writes to
            a protected page is EFAULT.
        nonblocking: ``read()`` returns at once; needed for ``poll()`` and ``messages()``.
        device: True opens ``/dev/userfaultfd``, False makes the system call, "auto" turns to the device when
            the call is refused (EPERM, ENOSYS).
        calls: What to ask, by default the running kernel.

    Attributes:
        features: Every feature that the kernel has.
        enabled: Those that were asked for.
        ioctls: ``1 << n`` for each ioctl on the descriptor itself.

    Raises:
        OSError: EPERM or ENOSYS, the call is refused; EINVAL, a feature is unknown to this kernel; EPERM,
            EVENT_FORK without CAP_SYS_PTRACE.
    """

    # ---- registration ----------------------------------------------------------------------------

    def register(
        self,
        start: SupportsIndex,
        length: SupportsIndex,
        *,
        missing: bool = False,
        wp: bool = False,
        minor: bool = False,
    ) -> int:
        """Register every mapping in a range; holes are skipped.

        A failure changes nothing. Unregister before registering with fewer modes: Linux would leave the
        uffd-wp bits of a write-protect registration behind, and they hide writes.

        Returns:
            ``1 << n`` for each ioctl that works on the whole range. Advice: for a regular file it names
            UFFDIO_COPY, which then fails.

        Raises:
            UsageError: No mode, or not whole pages.
            OSError: EINVAL, a mapping cannot be registered in these modes or there is none; EBUSY, another
                userfaultfd has it; EPERM, it may never be written; ENOMEM, the process is gone.
        """
        mode = abi.UFFDIO_REGISTER_MODE_MISSING * bool(missing)
        mode |= abi.UFFDIO_REGISTER_MODE_WP * bool(wp) | abi.UFFDIO_REGISTER_MODE_MINOR * bool(minor)
        if not mode:
            raise UsageError("registering needs a mode; give missing=True, wp=True or minor=True")
        argument = abi.UffdioRegister(self._range(start, length), mode)
        self._calls.uffdio(self.fileno(), abi.UFFDIO_REGISTER, argument)
        ioctls: int = argument.ioctls
        return ioctls

    def unregister(self, start: SupportsIndex, length: SupportsIndex) -> None:
        """End the registration of a range; its uffd-wp bits are cleared.

        Threads that wait on a write-protect fault there are *not* woken by Linux: call ``wake()`` afterwards.

        Raises:
            OSError: EINVAL, there is no mapping, or one that could not be registered (a regular file that is
                not), or one of another userfaultfd (since v6.17; before, that one lost it in silence).
        """
        self._calls.uffdio(self.fileno(), abi.UFFDIO_UNREGISTER, self._range(start, length))

    def wake(self, start: SupportsIndex, length: SupportsIndex) -> None:
        """Wake the threads that wait on a fault in a range; those whose fault is unresolved fault again."""
        self._calls.uffdio(self.fileno(), abi.UFFDIO_WAKE, self._range(start, length))

    def write_protect(
        self,
        start: SupportsIndex,
        length: SupportsIndex,
        *,
        protect: bool = True,
        wake: bool = True,
        forge_written: bool = False,
    ) -> None:
        """Set the uffd-wp bits of a range, or clear them.

        Not atomic over mappings: when one in the middle is not registered, those before it stay changed.

        Args:
            start: A page boundary; of a huge page in hugetlb memory.
            length: Whole pages, in bytes.
            protect: False clears, which in synchronous mode resolves the faults in the range.
            wake: False, with ``protect=False``, leaves the waiting threads to a later ``wake()``.
            forge_written: Allow ``protect=False`` on an asynchronous descriptor. Linux accepts it and every
                page of the range then counts as written, though nothing wrote it.

        Raises:
            UsageError: Un-protecting in asynchronous mode without ``forge_written``; protecting with
                ``wake=False``; not whole pages.
            OSError: ENOENT, a mapping is not registered for write-protection; EAGAIN, an unread event
                stands in the way; ESRCH, the process is gone; ENOMEM.
        """
        if protect and not wake:
            raise UsageError("protecting wakes nobody; give wake=False only together with protect=False")
        if not protect and self.is_async and not forge_written:
            raise UsageError(
                "un-protecting in asynchronous mode marks the pages as written though nothing wrote them; "
                "give forge_written=True if that is what you want"
            )
        mode = abi.UFFDIO_WRITEPROTECT_MODE_WP * bool(protect)
        mode |= abi.UFFDIO_WRITEPROTECT_MODE_DONTWAKE * (not wake)
        argument = abi.UffdioWriteprotect(self._range(start, length), mode)
        self._calls.uffdio(self.fileno(), abi.UFFDIO_WRITEPROTECT, argument)

    # ---- messages --------------------------------------------------------------------------------

    def read(self, max_messages: int = 16) -> tuple[Message, ...]:
        """Take the messages that wait, faults before events; each is delivered once.

        A blocking descriptor waits for the first one; otherwise there may be none. The descriptor in a
        ``Fork`` message belongs to the caller.

        Raises:
            UsageError: ``max_messages`` is less than 1.
        """
        if max_messages < 1:
            raise UsageError(f"max_messages is {max_messages}; read at least one message")
        try:
            data = self._calls.read_messages(self.fileno(), max_messages)
        except BlockingIOError:
            return ()
        return decode(data, self._of_child)

    def poll(self, timeout: float | None = None) -> bool:
        """Wait until a message can be read.

        Args:
            timeout: Seconds; 0 only looks, None waits for ever.

        Returns:
            False when the time ran out.

        Raises:
            UsageError: The descriptor is blocking: Linux then answers POLLERR whatever there is to read. Or the
                timeout is negative, or longer than 24 days. Or the object was closed meanwhile.
            OSError: EBADF, the program closed the descriptor.
        """
        if timeout is not None and not 0 <= timeout <= _LONGEST_MS / 1000:
            raise UsageError(f"timeout is {timeout} seconds; give None to wait for ever")
        timeout_ms = -1 if timeout is None else min(math.ceil(timeout * 1000), _LONGEST_MS)
        answer = self._calls.poll(self.fileno(), timeout_ms)
        if answer & select.POLLNVAL:
            raise not_ours(self.fileno())
        if answer & select.POLLERR:
            raise UsageError("Linux does not poll a blocking userfaultfd; open it with nonblocking=True")
        return bool(answer & select.POLLIN)

    async def messages(self) -> AsyncIterator[Message]:
        """Messages as they come, for asyncio; ends when the descriptor is closed (in the loop's thread).

        One is taken from Linux at a time, so that none is lost when the loop is left or the task cancelled:
        an untaken fault waits for the next reader, a lost one would block its thread for ever.

        Raises:
            UsageError: The descriptor is blocking, or another task waits for its messages.
        """
        self.poll(0)
        while not self.closed:
            taken = self.read(1)
            if taken:
                yield taken[0]
            else:
                await self._readiness.wait(self.fileno())
