"""UFFDIO_API: what a context is for, said once and for as long as the descriptor lives.

Truth: fs/userfaultfd.c:userfaultfd_api().
"""

from __future__ import annotations

import ctypes
import errno

from writewatch.abi import userfaultfd as abi
from writewatch.abi.ioctl import ioctl_number
from writewatch.model.mm import failure
from writewatch.model.uffd import Context

ALL_FEATURES = sum(feature.bit for feature in abi.FEATURES)


def bits(*requests: int) -> int:
    """The word in which ioctls are told: one bit for the number of each."""
    return sum(1 << ioctl_number(request) for request in requests)


API_IOCTLS = bits(abi.UFFDIO_API, abi.UFFDIO_REGISTER, abi.UFFDIO_UNREGISTER)


def api(context: Context, argument: abi.UffdioApi, *, privileged: bool) -> None:
    """The handshake. A failure zeroes the structure and leaves the context as it was."""
    try:
        _check_api(context, argument, privileged=privileged)
    except OSError:
        ctypes.memset(ctypes.byref(argument), 0, ctypes.sizeof(argument))
        raise
    wanted = int(argument.features)
    if wanted & abi.UFFD_FEATURE_WP_ASYNC:
        # Without markers, a first touch of unpopulated memory would go unseen.
        wanted |= abi.UFFD_FEATURE_WP_UNPOPULATED
    context.features = wanted
    argument.features = ALL_FEATURES
    argument.ioctls = API_IOCTLS


def _check_api(context: Context, argument: abi.UffdioApi, *, privileged: bool) -> None:
    if argument.api != abi.UFFD_API:
        raise failure(errno.EINVAL, "UFFDIO_API")
    if argument.features & abi.UFFD_FEATURE_EVENT_FORK and not privileged:
        raise failure(errno.EPERM, "UFFDIO_API")
    if argument.features & ~ALL_FEATURES or context.features is not None:
        raise failure(errno.EINVAL, "UFFDIO_API")
