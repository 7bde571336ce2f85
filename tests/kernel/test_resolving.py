"""The ioctls that fill, map, poison and move pages; results that stop half-way say how far they came."""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kernel.waiting import waiting
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MADV_DONTNEED, MAP_PRIVATE, MAP_SHARED, MFD_CLOEXEC
from writewatch.abi.userfaultfd import UFFDIO_COPY, UffdioArgument, UffdioCopy, feature_names
from writewatch.kernel.resolving import PartialResultError
from writewatch.kernel.userfaultfd import Userfaultfd

pytestmark = pytest.mark.kernel("userfaultfd")

Memory = Callable[..., int]
InThread = Callable[..., threading.Thread]


@pytest.fixture
def uffd() -> Iterator[Userfaultfd]:
    with Userfaultfd() as handle:
        yield handle


@pytest.fixture
def missing(uffd: Userfaultfd, memory: Memory, page: int) -> int:
    """Eight pages, registered for missing faults, none there."""
    start = memory(8)
    uffd.register(start, 8 * page, missing=True)
    return start


@pytest.fixture
def content(calls: KernelCalls, memory: Memory, page: int) -> int:
    """Eight pages of content, page n full of n."""
    start = memory(8)
    for n in range(8):
        calls.store(start + n * page, bytes([n]) * page)
    return start


@pytest.fixture
def memfd(calls: KernelCalls, page: int) -> Iterator[int]:
    """A memory file of eight pages, each in the page cache."""
    fd = calls.memfd_create("resolving", MFD_CLOEXEC)
    calls.ftruncate(fd, 8 * page)
    for n in range(8):
        calls.pwrite(fd, bytes([n]) * page, n * page)
    yield fd
    calls.close(fd)


def read_without_gil(addr: int) -> bytes:
    """One byte, read so that a thread that waits for it holds up no other: ``string_at`` keeps the GIL."""
    buffer = ctypes.create_string_buffer(1)
    ctypes.memmove(buffer, addr, 1)
    return buffer.raw


def needs(uffd: Userfaultfd, name: str) -> None:
    if name not in feature_names(uffd.features):
        pytest.skip(f"this kernel has no UFFD_FEATURE_{name}")


# ---- copy ----------------------------------------------------------------------------------------


def test_copy_fills_pages_and_returns_their_length(
    uffd: Userfaultfd, missing: int, content: int, calls: KernelCalls, page: int
) -> None:
    assert uffd.copy(missing, content, 3 * page) == 3 * page
    assert calls.load(missing, 3 * page) == calls.load(content, 3 * page)


def test_copy_takes_any_source_address(
    uffd: Userfaultfd, missing: int, content: int, calls: KernelCalls, page: int
) -> None:
    assert uffd.copy(missing, content + page - 1, page) == page
    assert calls.load(missing, 2) == b"\0\1"


def test_copy_over_a_page_is_refused_and_changes_nothing(
    uffd: Userfaultfd, missing: int, content: int, calls: KernelCalls, page: int
) -> None:
    uffd.copy(missing, content + page, page)
    with pytest.raises(FileExistsError, match="UFFDIO_COPY: File exists"):
        uffd.copy(missing, content + 2 * page, page)
    assert calls.load(missing, 1) == b"\1"


def test_copy_that_meets_a_page_half_way_says_how_far_it_came(
    uffd: Userfaultfd, missing: int, content: int, calls: KernelCalls, page: int
) -> None:
    uffd.zeropage(missing + 3 * page, page)
    with pytest.raises(PartialResultError, match=rf"UFFDIO_COPY: stopped after {3 * page} of") as stopped:
        uffd.copy(missing, content, 5 * page)
    assert stopped.value.done == 3 * page
    assert stopped.value.errno == errno.EAGAIN
    assert calls.load(missing + 2 * page, 1) == b"\2"
    # The next call, from there, has the reason.
    with pytest.raises(FileExistsError):
        uffd.copy(missing + stopped.value.done, content, page)


def test_copy_from_nowhere(uffd: Userfaultfd, missing: int, page: int) -> None:
    with pytest.raises(OSError, match="UFFDIO_COPY: Bad address") as refusal:
        uffd.copy(missing, 0, page)
    assert refusal.value.errno == errno.EFAULT


def test_copy_beyond_the_registered_mapping(uffd: Userfaultfd, missing: int, content: int, page: int) -> None:
    with pytest.raises(FileNotFoundError):
        uffd.copy(missing + 8 * page, content, page)


def test_copy_may_protect_what_it_fills(
    calls: KernelCalls, memory: Memory, content: int, page: int, uffd: Userfaultfd, in_thread: InThread
) -> None:
    start = memory(1)
    uffd.register(start, page, missing=True, wp=True)
    assert uffd.copy(start, content, page, wp=True) == page
    in_thread(calls.store, start, b"x")
    assert uffd.poll(10)
    assert [message.is_wp for message in uffd.read()] == [True]  # type: ignore[union-attr]
    uffd.write_protect(start, page, protect=False)


def test_copy_without_waking(
    uffd: Userfaultfd, missing: int, content: int, page: int, in_thread: InThread
) -> None:
    reader = in_thread(read_without_gil, missing)
    assert uffd.poll(10)
    uffd.read()
    uffd.copy(missing, content, page, wake=False)
    assert waiting(uffd) == 1
    uffd.wake(missing, page)
    reader.join(10)
    assert waiting(uffd) == 0


def test_a_negative_result_never_comes_back_as_a_length(page: int) -> None:
    class Changing:
        """Linux while an event is unread: EAGAIN, and −EAGAIN in the result field."""

        page_size = page

        def uffdio(self, fd: int, request: int, argument: UffdioArgument) -> None:
            assert isinstance(argument, UffdioCopy)
            assert request == UFFDIO_COPY
            assert argument.copy == 0
            argument.copy = -errno.EAGAIN
            raise OSError(errno.EAGAIN, "UFFDIO_COPY: Resource temporarily unavailable")

        def identity(self, fd: int) -> tuple[int, int]:
            return 0, fd

        def close(self, fd: int) -> None:
            pass

    calls: Any = Changing()
    with Userfaultfd.from_fd(999, 0, calls=calls) as uffd, pytest.raises(BlockingIOError) as refusal:
        uffd.copy(0, 0, page)
    assert not isinstance(refusal.value, PartialResultError)


# ---- zeropage, continue, poison ------------------------------------------------------------------


def test_zeropage_fills_with_zeros(uffd: Userfaultfd, missing: int, calls: KernelCalls, page: int) -> None:
    assert uffd.zeropage(missing, 8 * page) == 8 * page
    assert calls.load(missing, 8 * page) == bytes(8 * page)
    with pytest.raises(FileExistsError, match="UFFDIO_ZEROPAGE"):
        uffd.zeropage(missing, page)


def test_continue_maps_what_is_in_the_page_cache(
    uffd: Userfaultfd, memory: Memory, memfd: int, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    needs(uffd, "MINOR_SHMEM")
    start = memory(8, MAP_SHARED, memfd)
    uffd.register(start, 8 * page, minor=True)
    in_thread(read_without_gil, start + page)
    assert uffd.poll(10)
    (fault,) = uffd.read()
    assert fault.is_minor  # type: ignore[union-attr]
    assert uffd.continue_(start, 8 * page) == 8 * page
    assert calls.load(start + 7 * page, 1) == b"\7"
    with pytest.raises(FileExistsError, match="UFFDIO_CONTINUE"):
        uffd.continue_(start, page)


def test_continue_without_a_page_in_the_cache(
    uffd: Userfaultfd, memory: Memory, calls: KernelCalls, page: int
) -> None:
    needs(uffd, "MINOR_SHMEM")
    fd = calls.memfd_create("empty", 0)
    try:
        calls.ftruncate(fd, page)
        start = memory(1, MAP_SHARED, fd)
        uffd.register(start, page, minor=True)
        with pytest.raises(OSError, match="UFFDIO_CONTINUE: Bad address"):
            uffd.continue_(start, page)
    finally:
        calls.close(fd)


def test_a_poisoned_page_cannot_be_read_until_it_is_dropped(
    uffd: Userfaultfd, missing: int, calls: KernelCalls, page: int
) -> None:
    needs(uffd, "POISON")
    assert uffd.poison(missing, page) == page
    with pytest.raises(OSError, match=r"write: (Bad address|Memory page has hardware error)"):
        calls.copy_from_user(missing, 1)
    calls.madvise(missing, page, MADV_DONTNEED)
    uffd.zeropage(missing, page)
    assert calls.copy_from_user(missing, 1) == b"\0"


# ---- move ----------------------------------------------------------------------------------------


def test_move_takes_the_pages_away_from_their_source(
    uffd: Userfaultfd, missing: int, content: int, calls: KernelCalls, page: int
) -> None:
    needs(uffd, "MOVE")
    assert uffd.move(missing, content, 2 * page) == 2 * page
    assert calls.load(missing + page, 1) == b"\1"
    assert calls.load(content + page, 1) == b"\0"


def test_move_over_holes_only_when_allowed(
    uffd: Userfaultfd, missing: int, memory: Memory, calls: KernelCalls, page: int
) -> None:
    needs(uffd, "MOVE")
    source = memory(2)
    calls.store(source, b"x")
    with pytest.raises(PartialResultError) as stopped:
        uffd.move(missing, source, 2 * page)
    assert stopped.value.done == page
    assert uffd.move(missing + page, source, 2 * page, allow_src_holes=True) == 2 * page


def test_move_between_different_kinds_of_memory(
    uffd: Userfaultfd, missing: int, memory: Memory, memfd: int, page: int
) -> None:
    needs(uffd, "MOVE")
    with pytest.raises(OSError, match="UFFDIO_MOVE: Invalid argument"):
        uffd.move(missing, memory(8, MAP_PRIVATE, memfd), page)
