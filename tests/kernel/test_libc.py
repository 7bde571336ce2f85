"""Where −1 becomes ``OSError``: errno, and the name of the call."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Callable

import pytest

from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MAP_FIXED_NOREPLACE, MREMAP_MAYMOVE, PROT_READ
from writewatch.kernel import libc

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="there is no Linux to ask")

# The highest page boundary of a 64-bit address space, which no process can have.
NOWHERE = 2**64 - (1 << 16)
ANONYMOUS = 0x22


@pytest.mark.parametrize(
    ("use", "number", "name"),
    [
        (lambda c: c.mmap(0, 0, PROT_READ, ANONYMOUS), errno.EINVAL, "mmap"),
        (lambda c: c.munmap(1, 4096), errno.EINVAL, "munmap"),
        (lambda c: c.mprotect(1, 4096, PROT_READ), errno.EINVAL, "mprotect"),
        (lambda c: c.mremap(1, 4096, 4096, MREMAP_MAYMOVE), errno.EINVAL, "mremap"),
        (lambda c: c.madvise(1, 4096, 0), errno.EINVAL, "madvise"),
        (lambda c: c.msync(NOWHERE, 4096, 1), errno.ENOMEM, "msync"),
        (lambda c: c.fallocate(-1, 0, 0, 1), errno.EBADF, "fallocate"),
        (lambda c: c.copy_from_user(0, 1), errno.EFAULT, "write"),
        (lambda c: c.copy_to_user(0, b"x"), errno.EFAULT, "read"),
    ],
    ids=["mmap", "munmap", "mprotect", "mremap", "madvise", "msync", "fallocate", "write", "read"],
)
def test_an_error_names_its_call(
    use: Callable[[KernelCalls], object], number: int, name: str, calls: KernelCalls
) -> None:
    with pytest.raises(OSError, match=f"^\\[Errno {number}\\] {name}: {os.strerror(number)}$") as refusal:
        use(calls)
    assert refusal.value.errno == number


def test_the_subclass_is_the_errnos() -> None:
    ctypes.set_errno(errno.EPERM)
    assert isinstance(libc.error("call"), PermissionError)
    ctypes.set_errno(errno.EAGAIN)
    assert isinstance(libc.error("call"), BlockingIOError)


def test_results_pass_and_failures_raise() -> None:
    assert libc.check(0, "call") == 0
    assert libc.check(7, "call") == 7
    assert libc.check_address(None, "mmap") == 0
    assert libc.check_address(0x1000, "mmap") == 0x1000
    with pytest.raises(OSError, match="call"):
        libc.check(-1, "call")
    with pytest.raises(OSError, match="mmap"):
        libc.check_address(libc.MAP_FAILED, "mmap")


def test_a_system_call_by_its_name() -> None:
    with pytest.raises(OSError, match="close: Bad file descriptor"):
        libc.syscall("close", -1)
    with pytest.raises(KeyError):
        libc.syscall("no_such_call")


def test_a_function_that_this_library_lacks_is_refused_when_called() -> None:
    missing = libc._declare("writewatch_has_no_such_function", ctypes.c_int)
    assert missing(1, 2) == -1
    assert ctypes.get_errno() == errno.ENOSYS


def test_a_mapping_that_exists_is_not_replaced(
    memory: Callable[..., int], calls: KernelCalls, page: int
) -> None:
    with pytest.raises(FileExistsError, match="mmap"):
        calls.mmap(memory(1), page, PROT_READ, ANONYMOUS | MAP_FIXED_NOREPLACE)


def test_kernel_mode_copies_of_more_than_a_pipe_holds(
    memory: Callable[..., int], calls: KernelCalls, page: int
) -> None:
    start = memory(40)
    data = os.urandom(40 * page)
    calls.copy_to_user(start, data)
    assert calls.load(start, 40 * page) == data
    assert calls.copy_from_user(start, 40 * page) == data
