"""How Linux composes an ioctl request number. Mirrors ``include/uapi/asm-generic/ioctl.h``.

A request is four fields: direction (2 bits), size of the argument (14), a letter for the driver (8),
and a number (8). The layout is that of x86, ARM, RISC-V and s390; the architectures that differ
(alpha, mips, powerpc, sparc) have no uffd-wp except powerpc, which is not supported here.
"""

from __future__ import annotations

from typing import Final

_IOC_NRBITS: Final = 8
_IOC_TYPEBITS: Final = 8
_IOC_SIZEBITS: Final = 14

_IOC_NRSHIFT: Final = 0
_IOC_TYPESHIFT: Final = _IOC_NRSHIFT + _IOC_NRBITS
_IOC_SIZESHIFT: Final = _IOC_TYPESHIFT + _IOC_TYPEBITS
_IOC_DIRSHIFT: Final = _IOC_SIZESHIFT + _IOC_SIZEBITS

_IOC_NONE: Final = 0
_IOC_WRITE: Final = 1
_IOC_READ: Final = 2


def _IOC(direction: int, kind: int, number: int, size: int) -> int:
    return (
        direction << _IOC_DIRSHIFT | size << _IOC_SIZESHIFT | kind << _IOC_TYPESHIFT | number << _IOC_NRSHIFT
    )


def _IO(kind: int, number: int) -> int:
    """Request without an argument structure."""
    return _IOC(_IOC_NONE, kind, number, 0)


def _IOR(kind: int, number: int, size: int) -> int:
    """Request declared as read by user space; the kernel does not check the direction."""
    return _IOC(_IOC_READ, kind, number, size)


def _IOW(kind: int, number: int, size: int) -> int:
    """Request declared as written by user space."""
    return _IOC(_IOC_WRITE, kind, number, size)


def _IOWR(kind: int, number: int, size: int) -> int:
    """Request whose structure goes in and comes back."""
    return _IOC(_IOC_READ | _IOC_WRITE, kind, number, size)


def ioctl_number(request: int) -> int:
    """The number field: its bit position in the words that UFFDIO_API and UFFDIO_REGISTER return."""
    return request >> _IOC_NRSHIFT & (1 << _IOC_NRBITS) - 1
