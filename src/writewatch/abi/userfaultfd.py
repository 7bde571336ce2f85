"""All of ``include/uapi/linux/userfaultfd.h`` as of Linux 6.18.

Structures are ctypes classes; the one that is read in bulk, ``struct uffd_msg``, has a NumPy dtype
beside it. ``FEATURES`` adds what the header does not say: the release that brought each feature and
whether it has to be asked for. Names keep the header's spelling.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

import numpy as np

from writewatch.abi.ioctl import _IO, _IOR, _IOWR

# ---- the descriptor ------------------------------------------------------------------------------

#: Argument of userfaultfd(2): handle only faults from user mode. Asynchronous write-protection is
#: not weakened by it, because the kernel resolves those faults without a handler.
UFFD_USER_MODE_ONLY: Final = 1 << 0

#: ``/dev/userfaultfd``. Since Linux kernel commit 2d5de004e009 ("userfaultfd: add /dev/userfaultfd for
#: fine grained access control") (in v6.1). The flags of the new descriptor are passed by value.
USERFAULTFD_IOC: Final = 0xAA
USERFAULTFD_IOC_NEW: Final = _IO(USERFAULTFD_IOC, 0x00)

# ---- UFFDIO_API ----------------------------------------------------------------------------------

UFFD_API: Final = 0xAA

UFFD_FEATURE_PAGEFAULT_FLAG_WP: Final = 1 << 0
UFFD_FEATURE_EVENT_FORK: Final = 1 << 1
UFFD_FEATURE_EVENT_REMAP: Final = 1 << 2
UFFD_FEATURE_EVENT_REMOVE: Final = 1 << 3
UFFD_FEATURE_MISSING_HUGETLBFS: Final = 1 << 4
UFFD_FEATURE_MISSING_SHMEM: Final = 1 << 5
UFFD_FEATURE_EVENT_UNMAP: Final = 1 << 6
UFFD_FEATURE_SIGBUS: Final = 1 << 7
UFFD_FEATURE_THREAD_ID: Final = 1 << 8
UFFD_FEATURE_MINOR_HUGETLBFS: Final = 1 << 9
UFFD_FEATURE_MINOR_SHMEM: Final = 1 << 10
UFFD_FEATURE_EXACT_ADDRESS: Final = 1 << 11
UFFD_FEATURE_WP_HUGETLBFS_SHMEM: Final = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED: Final = 1 << 13
UFFD_FEATURE_POISON: Final = 1 << 14
UFFD_FEATURE_WP_ASYNC: Final = 1 << 15
UFFD_FEATURE_MOVE: Final = 1 << 16


@dataclass(frozen=True)
class Feature:
    """One ``UFFD_FEATURE_*`` bit.

    Attributes:
        name: Header name without the ``UFFD_FEATURE_`` prefix.
        bit: Its value in ``uffdio_api.features``.
        since: First release that has it, such as ``(6, 7)``.
        on_request: True when the feature does nothing unless it is named in the handshake; False
            when the bit only announces that the kernel can.
    """

    name: str
    bit: int
    since: tuple[int, int]
    on_request: bool


FEATURES: Final = (
    # man-pages give 5.10 for the first one; the bit was in v5.7.
    Feature("PAGEFAULT_FLAG_WP", UFFD_FEATURE_PAGEFAULT_FLAG_WP, (5, 7), False),
    Feature("EVENT_FORK", UFFD_FEATURE_EVENT_FORK, (4, 11), True),
    Feature("EVENT_REMAP", UFFD_FEATURE_EVENT_REMAP, (4, 11), True),
    Feature("EVENT_REMOVE", UFFD_FEATURE_EVENT_REMOVE, (4, 11), True),
    Feature("MISSING_HUGETLBFS", UFFD_FEATURE_MISSING_HUGETLBFS, (4, 11), False),
    Feature("MISSING_SHMEM", UFFD_FEATURE_MISSING_SHMEM, (4, 11), False),
    Feature("EVENT_UNMAP", UFFD_FEATURE_EVENT_UNMAP, (4, 11), True),
    Feature("SIGBUS", UFFD_FEATURE_SIGBUS, (4, 14), True),
    Feature("THREAD_ID", UFFD_FEATURE_THREAD_ID, (4, 14), True),
    Feature("MINOR_HUGETLBFS", UFFD_FEATURE_MINOR_HUGETLBFS, (5, 13), False),
    Feature("MINOR_SHMEM", UFFD_FEATURE_MINOR_SHMEM, (5, 14), False),
    Feature("EXACT_ADDRESS", UFFD_FEATURE_EXACT_ADDRESS, (5, 18), True),
    Feature("WP_HUGETLBFS_SHMEM", UFFD_FEATURE_WP_HUGETLBFS_SHMEM, (5, 19), False),
    # Implied by WP_ASYNC, whatever the handshake asks for.
    Feature("WP_UNPOPULATED", UFFD_FEATURE_WP_UNPOPULATED, (6, 4), True),
    Feature("POISON", UFFD_FEATURE_POISON, (6, 6), False),
    Feature("WP_ASYNC", UFFD_FEATURE_WP_ASYNC, (6, 7), True),
    Feature("MOVE", UFFD_FEATURE_MOVE, (6, 8), False),
)


def feature_names(features: int) -> tuple[str, ...]:
    """Names of the set bits, lowest first; a bit newer than this file is named ``BIT_n``."""
    known = {feature.bit: feature.name for feature in FEATURES}
    bits = (1 << n for n in range(features.bit_length()))
    return tuple(known.get(bit, f"BIT_{bit.bit_length() - 1}") for bit in bits if features & bit)


class UffdioApi(ctypes.Structure):
    """``struct uffdio_api``. The handshake: which protocol, which features."""

    _fields_ = (
        ("api", ctypes.c_uint64),  # in: UFFD_API
        ("features", ctypes.c_uint64),  # in: wanted; out: everything that the kernel has
        ("ioctls", ctypes.c_uint64),  # out: 1 << number of each ioctl on the descriptor itself
    )


# ---- ranges --------------------------------------------------------------------------------------

UFFDIO_REGISTER_MODE_MISSING: Final = 1 << 0
UFFDIO_REGISTER_MODE_WP: Final = 1 << 1
UFFDIO_REGISTER_MODE_MINOR: Final = 1 << 2

UFFDIO_COPY_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_COPY_MODE_WP: Final = 1 << 1
UFFDIO_ZEROPAGE_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_WRITEPROTECT_MODE_WP: Final = 1 << 0
UFFDIO_WRITEPROTECT_MODE_DONTWAKE: Final = 1 << 1
UFFDIO_CONTINUE_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_CONTINUE_MODE_WP: Final = 1 << 1
UFFDIO_POISON_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_MOVE_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES: Final = 1 << 1


class UffdioRange(ctypes.Structure):
    """``struct uffdio_range``."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("len", ctypes.c_uint64),
    )


class UffdioRegister(ctypes.Structure):
    """``struct uffdio_register``."""

    _fields_ = (
        ("range", UffdioRange),
        ("mode", ctypes.c_uint64),
        ("ioctls", ctypes.c_uint64),  # out: 1 << number of each ioctl that works on the range
    )


class UffdioCopy(ctypes.Structure):
    """``struct uffdio_copy``."""

    _fields_ = (
        ("dst", ctypes.c_uint64),
        ("src", ctypes.c_uint64),
        ("len", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("copy", ctypes.c_int64),  # out: bytes copied, or the negative errno
    )


class UffdioZeropage(ctypes.Structure):
    """``struct uffdio_zeropage``."""

    _fields_ = (
        ("range", UffdioRange),
        ("mode", ctypes.c_uint64),
        ("zeropage", ctypes.c_int64),  # out: bytes zeroed, or the negative errno
    )


class UffdioWriteprotect(ctypes.Structure):
    """``struct uffdio_writeprotect``."""

    _fields_ = (
        ("range", UffdioRange),
        ("mode", ctypes.c_uint64),
    )


class UffdioContinue(ctypes.Structure):
    """``struct uffdio_continue``."""

    _fields_ = (
        ("range", UffdioRange),
        ("mode", ctypes.c_uint64),
        ("mapped", ctypes.c_int64),  # out: bytes mapped, or the negative errno
    )


class UffdioPoison(ctypes.Structure):
    """``struct uffdio_poison``."""

    _fields_ = (
        ("range", UffdioRange),
        ("mode", ctypes.c_uint64),
        ("updated", ctypes.c_int64),  # out: bytes poisoned, or the negative errno
    )


class UffdioMove(ctypes.Structure):
    """``struct uffdio_move``."""

    _fields_ = (
        ("dst", ctypes.c_uint64),
        ("src", ctypes.c_uint64),
        ("len", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("move", ctypes.c_int64),  # out: bytes moved, or the negative errno
    )


# Every ioctl below is issued on the descriptor; the two that are declared _IOR write nothing back.
UFFDIO: Final = 0xAA
UFFDIO_API: Final = _IOWR(UFFDIO, 0x3F, ctypes.sizeof(UffdioApi))
UFFDIO_REGISTER: Final = _IOWR(UFFDIO, 0x00, ctypes.sizeof(UffdioRegister))
UFFDIO_UNREGISTER: Final = _IOR(UFFDIO, 0x01, ctypes.sizeof(UffdioRange))
UFFDIO_WAKE: Final = _IOR(UFFDIO, 0x02, ctypes.sizeof(UffdioRange))
UFFDIO_COPY: Final = _IOWR(UFFDIO, 0x03, ctypes.sizeof(UffdioCopy))
UFFDIO_ZEROPAGE: Final = _IOWR(UFFDIO, 0x04, ctypes.sizeof(UffdioZeropage))
UFFDIO_MOVE: Final = _IOWR(UFFDIO, 0x05, ctypes.sizeof(UffdioMove))
UFFDIO_WRITEPROTECT: Final = _IOWR(UFFDIO, 0x06, ctypes.sizeof(UffdioWriteprotect))
UFFDIO_CONTINUE: Final = _IOWR(UFFDIO, 0x07, ctypes.sizeof(UffdioContinue))
UFFDIO_POISON: Final = _IOWR(UFFDIO, 0x08, ctypes.sizeof(UffdioPoison))

UffdioArgument = (
    UffdioApi
    | UffdioRange
    | UffdioRegister
    | UffdioCopy
    | UffdioZeropage
    | UffdioWriteprotect
    | UffdioContinue
    | UffdioPoison
    | UffdioMove
)

#: Request -> header name and argument structure.
UFFDIO_CALLS: Final[dict[int, tuple[str, type[ctypes.Structure]]]] = {
    UFFDIO_API: ("UFFDIO_API", UffdioApi),
    UFFDIO_REGISTER: ("UFFDIO_REGISTER", UffdioRegister),
    UFFDIO_UNREGISTER: ("UFFDIO_UNREGISTER", UffdioRange),
    UFFDIO_WAKE: ("UFFDIO_WAKE", UffdioRange),
    UFFDIO_COPY: ("UFFDIO_COPY", UffdioCopy),
    UFFDIO_ZEROPAGE: ("UFFDIO_ZEROPAGE", UffdioZeropage),
    UFFDIO_MOVE: ("UFFDIO_MOVE", UffdioMove),
    UFFDIO_WRITEPROTECT: ("UFFDIO_WRITEPROTECT", UffdioWriteprotect),
    UFFDIO_CONTINUE: ("UFFDIO_CONTINUE", UffdioContinue),
    UFFDIO_POISON: ("UFFDIO_POISON", UffdioPoison),
}

# ---- messages ------------------------------------------------------------------------------------

UFFD_EVENT_PAGEFAULT: Final = 0x12
UFFD_EVENT_FORK: Final = 0x13
UFFD_EVENT_REMAP: Final = 0x14
UFFD_EVENT_REMOVE: Final = 0x15
UFFD_EVENT_UNMAP: Final = 0x16

UFFD_PAGEFAULT_FLAG_WRITE: Final = 1 << 0
UFFD_PAGEFAULT_FLAG_WP: Final = 1 << 1
UFFD_PAGEFAULT_FLAG_MINOR: Final = 1 << 2


# The header declares struct uffd_msg packed; every field is naturally aligned, so the layout is the same.
class _Pagefault(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("ptid", ctypes.c_uint32),  # thread id, only with UFFD_FEATURE_THREAD_ID
    )


class _Fork(ctypes.Structure):
    _fields_ = (("ufd", ctypes.c_uint32),)


class _Remap(ctypes.Structure):
    _fields_ = (("from_", ctypes.c_uint64), ("to", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Remove(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64))


class _Argument(ctypes.Union):
    _fields_ = (
        ("pagefault", _Pagefault),
        ("fork", _Fork),
        ("remap", _Remap),
        ("remove", _Remove),
        ("reserved", ctypes.c_uint64 * 3),
    )


class UffdMsg(ctypes.Structure):
    """``struct uffd_msg``: 32 bytes, one fault or one event."""

    _fields_ = (
        ("event", ctypes.c_uint8),
        ("reserved1", ctypes.c_uint8),
        ("reserved2", ctypes.c_uint16),
        ("reserved3", ctypes.c_uint32),
        ("arg", _Argument),
    )


#: ``struct uffd_msg`` for bulk reading; the three words of the union by position:
#: page fault (flags, address, ptid), fork (ufd, -, -), remap (from, to, len), remove and unmap
#: (start, end, -).
UFFD_MSG: Final = np.dtype([("event", "<u8"), ("arg", "<u8", (3,))])
