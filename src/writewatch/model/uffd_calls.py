"""userfaultfd(2), its ioctls, read, poll and close.

What each call does is documented at ``KernelCalls``.
"""

from __future__ import annotations

import errno
import os
import select
from typing import Final

from writewatch.abi import userfaultfd as abi
from writewatch.model import fill, handshake, move, register
from writewatch.model.access_calls import AccessCalls
from writewatch.model.messages import read_messages
from writewatch.model.mm import failure
from writewatch.model.signals import MustWait
from writewatch.model.uffd import Context
from writewatch.model.waits import Steps

_UFFD_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY


class UffdCalls(AccessCalls):
    """The part of ``KernelCalls`` that serves a userfaultfd."""

    def userfaultfd(self, flags: int) -> int:
        if not self.privileged and not flags & abi.UFFD_USER_MODE_ONLY:
            raise failure(errno.EPERM, "userfaultfd")
        return self._new_userfaultfd(flags, "userfaultfd")

    def userfaultfd_from_device(self, flags: int) -> int:
        if not self.privileged:
            raise failure(errno.EACCES, "open")
        return self._new_userfaultfd(flags, "USERFAULTFD_IOC_NEW")

    def _new_userfaultfd(self, flags: int, call: str) -> int:
        if flags & ~_UFFD_FLAGS:
            raise failure(errno.EINVAL, call)
        return self.descriptors.install(Context(self.mm, flags))

    def uffdio(self, fd: int, request: int, argument: abi.UffdioArgument) -> None:
        self._run(self._uffdio_steps(fd, request, argument))

    def _uffdio_steps(self, fd: int, request: int, argument: abi.UffdioArgument) -> Steps[None]:
        context = self.descriptors.context(fd)
        if request != abi.UFFDIO_API and context.features is None:
            raise failure(errno.EINVAL, "ioctl")
        while True:
            try:
                self._dispatch(context, request, argument)
                return
            except MustWait as sleep:
                # UFFDIO_COPY reads memory that another userfaultfd serves.
                wait = sleep.wait
            while not wait.done:
                yield wait

    def _dispatch(self, context: Context, request: int, argument: abi.UffdioArgument) -> None:
        match argument:
            case abi.UffdioApi():
                handshake.api(context, argument, privileged=self.privileged)
            case abi.UffdioRegister():
                register.register(context, argument)
            case abi.UffdioRange():
                (register.unregister if request == abi.UFFDIO_UNREGISTER else register.wake)(
                    context, argument
                )
            case abi.UffdioWriteprotect():
                register.writeprotect(context, argument, strict=self.machine.settings.strict)
            case _:
                self._fill(context, argument)

    def _fill(self, context: Context, argument: abi.UffdioArgument) -> None:
        match argument:
            case abi.UffdioCopy():
                fill.copy(context, argument, self._kernel_read)
            case abi.UffdioZeropage():
                fill.zeropage(context, argument)
            case abi.UffdioContinue():
                fill.resume(context, argument)
            case abi.UffdioPoison():
                fill.poison(context, argument)
            case abi.UffdioMove():
                move.move(context, argument, self.mm)

    def read_messages(self, fd: int, max_messages: int) -> bytes:
        return self._run(self._read_messages_steps(fd, max_messages))

    def _read_messages_steps(self, fd: int, max_messages: int) -> Steps[bytes]:
        return (yield from read_messages(self.descriptors.context(fd), max_messages, self.descriptors))

    def poll(self, fd: int, timeout_ms: int) -> int:
        # Compare fs/userfaultfd.c:userfaultfd_poll(). Nothing happens while the model waits, so it does not.
        context = self.descriptors.context(fd)
        if context.features is None or not context.flags & os.O_NONBLOCK:
            return select.POLLERR
        return select.POLLIN if context.has_message else 0

    def close(self, fd: int) -> None:
        self.descriptors.close(fd)
        self.machine.run_ready()

    def identity(self, fd: int) -> tuple[int, int]:
        return self.descriptors.identity(fd)

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        return self.descriptors.lseek(fd, offset, whence)
