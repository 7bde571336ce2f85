"""ctypes declarations of the C library, and the one place where −1 becomes ``OSError``.

Every function here releases the GIL while it runs, and an error names its call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Any

from writewatch.abi.mman import SYSCALLS

_libc = ctypes.CDLL(None, use_errno=True)
_pointer = ctypes.c_void_p
_size = ctypes.c_size_t


def _declare(name: str, restype: Any, *argtypes: Any) -> Any:
    """A declared function of libc; one that this C library lacks is refused when called."""
    try:
        function = getattr(_libc, name)
    except AttributeError:
        return _Missing(name)
    function.restype = restype
    function.argtypes = argtypes
    return function


class Iovec(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _Missing:
    """A function that the C library of this system does not have (not Linux)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *_: object) -> int:
        ctypes.set_errno(errno.ENOSYS)
        return -1


ioctl = _declare("ioctl", ctypes.c_int, ctypes.c_int, ctypes.c_ulong, _pointer)
ioctl_by_value = _declare("ioctl", ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong)
mmap = _declare(
    "mmap", _pointer, _pointer, _size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong
)
munmap = _declare("munmap", ctypes.c_int, _pointer, _size)
mprotect = _declare("mprotect", ctypes.c_int, _pointer, _size, ctypes.c_int)
mremap = _declare("mremap", _pointer, _pointer, _size, _size, ctypes.c_int, _pointer)
madvise = _declare("madvise", ctypes.c_int, _pointer, _size, ctypes.c_int)
msync = _declare("msync", ctypes.c_int, _pointer, _size, ctypes.c_int)
mincore = _declare("mincore", ctypes.c_int, _pointer, _size, _pointer)
process_vm_readv = _declare(
    "process_vm_readv",
    ctypes.c_ssize_t,
    ctypes.c_int,
    _pointer,
    ctypes.c_ulong,
    _pointer,
    ctypes.c_ulong,
    ctypes.c_ulong,
)
read = _declare("read", ctypes.c_ssize_t, ctypes.c_int, _pointer, _size)
write = _declare("write", ctypes.c_ssize_t, ctypes.c_int, _pointer, _size)
fallocate = _declare(
    "fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong
)
prctl = _declare(
    "prctl", ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong
)
ptrace = _declare("ptrace", ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong)
waitpid = _declare("waitpid", ctypes.c_int, ctypes.c_int, _pointer, ctypes.c_int)
# Variadic: the arguments after the number are passed as declared longs.
syscall_function = _declare("syscall", ctypes.c_long, ctypes.c_long)

MAP_FAILED = ctypes.c_void_p(-1).value


def error(call: str) -> OSError:
    """The ``OSError`` of the current errno, with the name of the call that failed."""
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def check(result: int, call: str) -> int:
    """A result other than −1; −1 raises."""
    if result == -1:
        raise error(call)
    return result


def check_address(result: int | None, call: str) -> int:
    """An address; ``MAP_FAILED`` raises. Address 0 arrives from ctypes as None."""
    if result == MAP_FAILED:
        raise error(call)
    return result or 0


def syscall(name: str, *arguments: int) -> int:
    """A system call by the header's name, for those that libc does not wrap."""
    return check(syscall_function(*syscall_arguments(name, *arguments)), name)


def syscall_arguments(name: str, *arguments: int) -> list[Any]:
    """What ``syscall_function`` is to be called with."""
    if sys.platform != "linux":
        ctypes.set_errno(errno.ENOSYS)
        raise error(name)
    return [SYSCALLS[name], *(ctypes.c_long(argument) for argument in arguments)]
