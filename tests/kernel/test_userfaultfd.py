"""Registering, waking, write-protecting: what comes back, and what is refused by whom."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernel.waiting import waiting
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MAP_ANONYMOUS, MAP_SHARED, PROT_READ
from writewatch.abi.pagemap import PM_UFFD_WP
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC, UFFDIO_CALLS
from writewatch.errors import UsageError
from writewatch.kernel.messages import Pagefault
from writewatch.kernel.userfaultfd import Userfaultfd

Memory = Callable[..., int]
InThread = Callable[..., threading.Thread]

SHARED = MAP_SHARED | MAP_ANONYMOUS


def protected(calls: KernelCalls, start: int, count: int) -> list[bool]:
    """Bit 57 of each page, read by another way than a scan."""
    fd = calls.open_pagemap(None)
    try:
        entries = calls.read_pagemap(fd, start // calls.page_size, count)
        return [bool(entry & np.uint64(PM_UFFD_WP)) for entry in entries]
    finally:
        calls.close(fd)


def ioctls(word: int) -> set[str]:
    """Names of the ioctls in a word."""
    return {name for request, (name, _) in UFFDIO_CALLS.items() if word >> (request & 0xFF) & 1}


# ---- register ------------------------------------------------------------------------------------


@pytest.mark.kernel("userfaultfd")
def test_register_tells_which_ioctls_work(memory: Memory, page: int) -> None:
    private, shared = memory(1), memory(1, SHARED)
    with Userfaultfd() as uffd:
        missing = ioctls(uffd.register(private, page, missing=True))
        assert missing >= {"UFFDIO_WAKE", "UFFDIO_COPY", "UFFDIO_ZEROPAGE"}
        assert missing.isdisjoint({"UFFDIO_WRITEPROTECT", "UFFDIO_CONTINUE"})
        assert "UFFDIO_WRITEPROTECT" in ioctls(uffd.register(private, page, missing=True, wp=True))
        assert "UFFDIO_CONTINUE" in ioctls(uffd.register(shared, page, minor=True))


@pytest.mark.kernel("userfaultfd")
def test_minor_faults_are_refused_in_anonymous_memory(memory: Memory, page: int) -> None:
    with Userfaultfd() as uffd, pytest.raises(OSError, match="UFFDIO_REGISTER: Invalid argument") as refusal:
        uffd.register(memory(1), page, minor=True)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.kernel("userfaultfd")
def test_memory_of_another_userfaultfd_is_busy(memory: Memory, page: int) -> None:
    start = memory(1)
    with Userfaultfd() as first, Userfaultfd() as second:
        first.register(start, page, missing=True)
        with pytest.raises(OSError, match="UFFDIO_REGISTER: Device or resource busy"):
            second.register(start, page, missing=True)
        first.unregister(start, page)
        second.register(start, page, missing=True)


@pytest.mark.kernel("userfaultfd")
def test_unregister_where_nothing_is_mapped(calls: KernelCalls, page: int) -> None:
    start = calls.mmap(0, page, PROT_READ, 0x22)
    calls.munmap(start, page)
    with Userfaultfd() as uffd, pytest.raises(OSError, match="UFFDIO_UNREGISTER: Invalid argument"):
        uffd.unregister(start, page)


def test_a_mode_has_to_be_named(fake: Userfaultfd) -> None:
    with pytest.raises(UsageError, match="give missing=True, wp=True or minor=True"):
        fake.register(0x1000, 0x1000)


# ---- ranges --------------------------------------------------------------------------------------


class Mute:
    """Calls that must not be made: whoever checks his arguments first never reaches them."""

    page_size = 4096

    def uffdio(self, *_: object) -> None:
        raise AssertionError("Linux was asked")

    def identity(self, fd: int) -> tuple[int, int]:
        return 0, fd

    def close(self, fd: int) -> None:
        pass


@pytest.fixture
def fake() -> Any:
    """A descriptor that is asynchronous and leads nowhere."""
    with Userfaultfd.from_fd(999, UFFD_FEATURE_WP_ASYNC, calls=Mute()) as uffd:  # type: ignore[arg-type]
        yield uffd


RANGES: dict[str, Callable[[Userfaultfd, int, int], object]] = {
    "register": lambda uffd, start, length: uffd.register(start, length, wp=True),
    "unregister": lambda uffd, start, length: uffd.unregister(start, length),
    "wake": lambda uffd, start, length: uffd.wake(start, length),
    "write_protect": lambda uffd, start, length: uffd.write_protect(start, length),
    "copy": lambda uffd, start, length: uffd.copy(start, 0x1000, length),
    "zeropage": lambda uffd, start, length: uffd.zeropage(start, length),
    "continue_": lambda uffd, start, length: uffd.continue_(start, length),
    "poison": lambda uffd, start, length: uffd.poison(start, length),
    "move": lambda uffd, start, length: uffd.move(start, 0x1000, length),
}


@pytest.mark.parametrize("call", RANGES.values(), ids=RANGES)
@pytest.mark.parametrize(
    ("start", "length", "sentence"),
    [
        (0x1001, 0x1000, r"0x1001 is not a multiple of the page size 4096; round it down to 0x1000$"),
        (0x1000, 5000, r"length 5000 is not a multiple of the page size 4096; round it up to 8192$"),
        (0x1000, 0, r"length is 0; name at least one page of 4096 bytes$"),
        (-0x1000, 0x1000, r"-0x1000 does not fit in 64 bits"),
        (1 << 64, 0x1000, r"0x10000000000000000 does not fit in 64 bits"),
        (0x1000, 1 << 64, r"length 0x10000000000000000 does not fit in 64 bits"),
    ],
)
def test_what_is_no_range_of_pages_is_misuse(
    fake: Userfaultfd,
    call: Callable[[Userfaultfd, int, int], object],
    start: int,
    length: int,
    sentence: str,
) -> None:
    with pytest.raises(UsageError, match=sentence):
        call(fake, start, length)


def test_the_source_of_a_move_is_pages_too(fake: Userfaultfd) -> None:
    with pytest.raises(UsageError, match="src 0x2004 is not a multiple"):
        fake.move(0x1000, 0x2004, 0x1000)


@pytest.mark.kernel("userfaultfd")
def test_addresses_may_be_numpy_integers(memory: Memory, page: int) -> None:
    with Userfaultfd() as uffd:
        assert uffd.register(np.uint64(memory(1)), np.int64(page), missing=True)


def test_addresses_are_not_rounded_from_floats(fake: Userfaultfd) -> None:
    with pytest.raises(TypeError):
        fake.wake(4096.0, 4096)  # type: ignore[arg-type]


@pytest.mark.kernel("userfaultfd")
def test_a_mode_is_named_or_not(memory: Memory, page: int) -> None:
    """A switch that is merely true is its own bit of the mode, not that of the next one."""
    truth: Any = 2
    with Userfaultfd() as uffd:
        assert "UFFDIO_WRITEPROTECT" not in ioctls(uffd.register(memory(1), page, missing=truth))
        assert "UFFDIO_WRITEPROTECT" in ioctls(uffd.register(memory(1), page, wp=np.True_))  # type: ignore[arg-type]


# ---- write_protect -------------------------------------------------------------------------------


@pytest.mark.kernel("userfaultfd", "pagemap")
def test_protect_and_unprotect_are_seen_in_the_page_table(
    calls: KernelCalls, memory: Memory, page: int
) -> None:
    start = memory(3)
    calls.store(start, b"x" * 3 * page)
    with Userfaultfd() as uffd:
        uffd.register(start, 3 * page, wp=True)
        uffd.write_protect(start + page, page)
        assert protected(calls, start, 3) == [False, True, False]
        uffd.write_protect(start, 3 * page, protect=False)
        assert protected(calls, start, 3) == [False, False, False]


@pytest.mark.kernel("uffd_wp_sync")
def test_a_write_waits_until_its_page_is_unprotected(
    calls: KernelCalls, memory: Memory, page: int, in_thread: InThread
) -> None:
    start = memory(1)
    calls.store(start, b"old")
    with Userfaultfd() as uffd:
        uffd.register(start, page, wp=True)
        uffd.write_protect(start, page)
        writer = in_thread(calls.store, start, b"new")
        assert uffd.poll(10)
        assert uffd.read() == (Pagefault(3, start, 0),)
        assert writer.is_alive()
        assert calls.load(start, 3) == b"old"
        uffd.write_protect(start, page, protect=False)
        writer.join(10)
        assert calls.load(start, 3) == b"new"


@pytest.mark.kernel("uffd_wp_sync")
def test_unprotecting_without_waking_leaves_the_writer_to_wake(
    calls: KernelCalls, memory: Memory, page: int, in_thread: InThread
) -> None:
    start = memory(1)
    calls.store(start, b"old")
    with Userfaultfd() as uffd:
        uffd.register(start, page, wp=True)
        uffd.write_protect(start, page)
        writer = in_thread(calls.store, start, b"new")
        assert uffd.poll(10)
        uffd.read()
        uffd.write_protect(start, page, protect=False, wake=False)
        assert waiting(uffd) == 1
        uffd.wake(start, page)
        writer.join(10)
        assert waiting(uffd) == 0


@pytest.mark.kernel("userfaultfd")
def test_protecting_what_is_not_registered(memory: Memory, page: int) -> None:
    with Userfaultfd() as uffd, pytest.raises(FileNotFoundError, match="UFFDIO_WRITEPROTECT"):
        uffd.write_protect(memory(1), page)


def test_protecting_wakes_nobody(fake: Userfaultfd) -> None:
    with pytest.raises(UsageError, match="protecting wakes nobody"):
        fake.write_protect(0x1000, 0x1000, wake=False)


def test_unprotecting_in_asynchronous_mode_has_to_be_asked_for_by_name(fake: Userfaultfd) -> None:
    with pytest.raises(UsageError, match="give forge_written=True"):
        fake.write_protect(0x1000, 0x1000, protect=False)


@pytest.mark.kernel("uffd_wp_async")
def test_unprotecting_in_asynchronous_mode_forges_written(
    calls: KernelCalls, memory: Memory, page: int
) -> None:
    start = memory(2)
    with Userfaultfd(UFFD_FEATURE_WP_ASYNC) as uffd:
        uffd.register(start, 2 * page, wp=True)
        uffd.write_protect(start, 2 * page)
        assert protected(calls, start, 2) == [True, True]
        uffd.write_protect(start, page, protect=False, forge_written=True)
        assert protected(calls, start, 2) == [False, True]


@pytest.mark.kernel("uffd_wp_async")
def test_a_write_in_asynchronous_mode_waits_for_nobody(calls: KernelCalls, memory: Memory, page: int) -> None:
    start = memory(2)
    with Userfaultfd(UFFD_FEATURE_WP_ASYNC) as uffd:
        uffd.register(start, 2 * page, wp=True)
        uffd.write_protect(start, 2 * page)
        calls.store(start + page, b"x")
        assert uffd.read() == ()
        assert protected(calls, start, 2) == [True, False]


@pytest.mark.kernel("userfaultfd")
def test_closing_ends_the_registration(calls: KernelCalls, memory: Memory, page: int) -> None:
    start = memory(1)
    calls.store(start, b"x")
    with Userfaultfd() as uffd:
        uffd.register(start, page, wp=True)
        uffd.write_protect(start, page)
    calls.store(start, b"y")  # would wait for ever
    with Userfaultfd() as other:
        other.register(start, page, wp=True)
