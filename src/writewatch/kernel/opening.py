"""From nothing to a userfaultfd that answers: system call or device, then the one handshake.

Truth: ``new_userfaultfd()`` and ``userfaultfd_api()`` in ``fs/userfaultfd.c``.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Final, Literal, TypeAlias

from writewatch.abi.calls import KernelCalls
from writewatch.abi.userfaultfd import UFFD_API, UFFD_USER_MODE_ONLY, UFFDIO_API, UffdioApi
from writewatch.errors import UsageError

Device: TypeAlias = bool | Literal["auto"]

# What system call filters answer; the device is another way.
_FILTERED: Final = (errno.EPERM, errno.ENOSYS)

# Linux shows internal bits beside the features: 31 says "handshake done".
_INTERNAL_FEATURES: Final = 1 << 31


def open_userfaultfd(
    calls: KernelCalls, *, user_mode_only: bool = True, nonblocking: bool = True, device: Device = "auto"
) -> int:
    """A fresh close-on-exec descriptor without a handshake, owned by the caller.

    Args:
        calls: What to ask.
        user_mode_only: Do without faults that the kernel itself takes; then no privilege is needed.
        nonblocking: read(2) answers EAGAIN when there is no message, and poll(2) works.
        device: True opens ``/dev/userfaultfd``, False makes the system call, "auto" turns to the device when
            the call is EPERM or ENOSYS.

    Raises:
        UsageError: ``device`` is something else.
        OSError: EPERM, ENOSYS of the system call (when the device does not help either); EINVAL before v5.11
            with ``user_mode_only``; ENOENT or EACCES of the device when it was asked for.
    """
    if device not in (True, False, "auto"):
        raise UsageError(f'device is {device!r}; give True, False or "auto"')
    only = None if device == "auto" else bool(device)
    flags = os.O_CLOEXEC
    flags |= UFFD_USER_MODE_ONLY if user_mode_only else 0
    flags |= os.O_NONBLOCK if nonblocking else 0
    if only is True:
        return calls.userfaultfd_from_device(flags)
    try:
        return calls.userfaultfd(flags)
    except OSError as refusal:
        if only is False or refusal.errno not in _FILTERED:
            raise
        try:
            return calls.userfaultfd_from_device(flags)
        except OSError:
            # The device was our idea; what the caller asked for is the system call.
            raise refusal from None


def handshake(calls: KernelCalls, fd: int, features: int) -> UffdioApi:
    """``UFFDIO_API``: works once on a descriptor, and before it nothing else does.

    Returns:
        What the kernel filled in: ``features`` is all that it has, not what was enabled.

    Raises:
        OSError: EINVAL, the kernel lacks one of the features, or the handshake was done before; EPERM,
            EVENT_FORK without CAP_SYS_PTRACE. The descriptor remains usable for another try.
    """
    argument = UffdioApi(UFFD_API, features)
    calls.uffdio(fd, UFFDIO_API, argument)
    return argument


def enabled_features(fd: int, pid: int | None = None) -> int:
    """The features that were enabled on a userfaultfd of this or another process.

    ``/proc/PID/fdinfo/FD`` is the only place where Linux tells them.

    Raises:
        OSError: No such process or descriptor, or no right to look.
        ValueError: The descriptor is no userfaultfd.
    """
    with open(f"/proc/{'self' if pid is None else pid}/fdinfo/{fd}", encoding="ascii") as file:
        match = re.search(r"^API:\s*[0-9a-f]+:([0-9a-f]+):", file.read(), re.MULTILINE)
    if match is None:
        raise ValueError(f"descriptor {fd} is no userfaultfd")
    return int(match[1], 16) & ~_INTERNAL_FEATURES
