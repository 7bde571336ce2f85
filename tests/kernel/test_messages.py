"""What is read from a userfaultfd: faults and events, waiting or not, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kernel.waiting import waiting
from writewatch.abi import userfaultfd as abi
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MADV_DONTNEED, MADV_FREE, MREMAP_MAYMOVE
from writewatch.errors import UsageError
from writewatch.kernel.messages import Message, Pagefault, Remap, Remove, UnknownEvent, Unmap, decode
from writewatch.kernel.userfaultfd import Userfaultfd

Memory = Callable[..., int]
InThread = Callable[..., threading.Thread]

needs_faults = pytest.mark.kernel("uffd_wp_sync")


@contextmanager
def missing(start: int, length: int, features: int = 0) -> Iterator[Userfaultfd]:
    """A userfaultfd with one range registered for missing faults."""
    with Userfaultfd(features) as uffd:
        uffd.register(start, length, missing=True)
        yield uffd


def raw(event: int, *words: int) -> bytes:
    return struct.pack("<B7x", event) + struct.pack("<3Q", *words)


def nobody(fd: int) -> Userfaultfd:
    raise AssertionError("no fork was read")


# ---- decoding ------------------------------------------------------------------------------------


def test_every_event_is_decoded_in_order() -> None:
    data = b"".join(
        (
            raw(abi.UFFD_EVENT_PAGEFAULT, 3, 0x1000, 42),
            raw(abi.UFFD_EVENT_REMAP, 0x1000, 0x2000, 0x3000),
            raw(abi.UFFD_EVENT_REMOVE, 0x1000, 0x2000, 0),
            raw(abi.UFFD_EVENT_UNMAP, 0x3000, 0x4000, 0),
            raw(0x77, 1, 2, 3),
        )
    )
    assert decode(data, nobody) == (
        Pagefault(3, 0x1000, 42),
        Remap(0x1000, 0x2000, 0x3000),
        Remove(0x1000, 0x2000),
        Unmap(0x3000, 0x4000),
        UnknownEvent(0x77, (1, 2, 3)),
    )


def test_nothing_decodes_to_nothing() -> None:
    assert decode(b"", nobody) == ()


def test_what_lies_behind_a_32_bit_field_is_not_part_of_it() -> None:
    (fault,) = decode(raw(abi.UFFD_EVENT_PAGEFAULT, 1, 0x1000, 0xDEAD_0000_002A), nobody)
    assert fault == Pagefault(1, 0x1000, 42)


@pytest.mark.parametrize(
    ("flags", "write", "wp", "minor"),
    [(0, False, False, False), (1, True, False, False), (3, True, True, False), (5, True, False, True)],
)
def test_flags_of_a_fault(flags: int, write: bool, wp: bool, minor: bool) -> None:
    fault = Pagefault(flags, 0, 0)
    assert (fault.is_write, fault.is_wp, fault.is_minor) == (write, wp, minor)


# ---- faults --------------------------------------------------------------------------------------


@needs_faults
def test_a_missing_page_that_is_written(
    memory: Memory, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    start = memory(4)
    with missing(start, 4 * page) as uffd:
        in_thread(calls.store, start + page + 5, b"x")
        assert uffd.poll(10)
        assert uffd.read() == (Pagefault(abi.UFFD_PAGEFAULT_FLAG_WRITE, start + page, 0),)
        uffd.zeropage(start + page, page)


@needs_faults
def test_thread_and_exact_address_on_request(
    memory: Memory, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    start = memory(1)
    features = abi.UFFD_FEATURE_THREAD_ID | abi.UFFD_FEATURE_EXACT_ADDRESS
    with missing(start, page, features) as uffd:
        writer = in_thread(calls.store, start + 5, b"x")
        assert uffd.poll(10)
        assert uffd.read() == (Pagefault(1, start + 5, writer.native_id or 0),)
        uffd.zeropage(start, page)


@needs_faults
def test_a_message_is_delivered_once_and_again_after_a_wake_without_resolving(
    memory: Memory, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    start = memory(1)
    with missing(start, page) as uffd:
        in_thread(calls.store, start, b"x")
        assert uffd.poll(10)
        first = uffd.read()
        assert uffd.read() == ()
        assert not uffd.poll(0)
        uffd.wake(start, page)
        assert uffd.poll(10)
        assert uffd.read() == first
        uffd.zeropage(start, page)


@needs_faults
def test_as_many_messages_as_asked_for(
    memory: Memory, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    start = memory(3)
    with missing(start, 3 * page) as uffd:
        for n in range(3):
            in_thread(calls.store, start + n * page, b"x")
        while waiting(uffd) < 3:
            assert uffd.poll(10)
        first, rest = uffd.read(1), uffd.read()
        assert (len(first), len(rest)) == (1, 2)
        assert {m.address for m in first + rest} == {start, start + page, start + 2 * page}  # type: ignore[union-attr]
        uffd.zeropage(start, 3 * page)


@needs_faults
def test_a_blocking_read_waits_for_its_message(
    memory: Memory, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    start = memory(1)
    with Userfaultfd(nonblocking=False) as uffd:
        uffd.register(start, page, missing=True)
        in_thread(calls.store, start, b"x")
        assert uffd.read() == (Pagefault(1, start, 0),)
        uffd.zeropage(start, page)


@pytest.mark.kernel("userfaultfd")
def test_at_least_one_message() -> None:
    with Userfaultfd() as uffd, pytest.raises(UsageError, match="max_messages is 0; read at least one"):
        uffd.read(0)


@pytest.mark.kernel("userfaultfd")
def test_waiting_for_less_than_nothing_is_misuse() -> None:
    with Userfaultfd() as uffd, pytest.raises(UsageError, match="timeout is -1 seconds; give None"):
        uffd.poll(-1)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 1e10])
def test_waiting_longer_than_linux_can_is_misuse(timeout: float) -> None:
    calls: Any = NeverAsked()
    with (
        Userfaultfd.from_fd(10_000, 0, calls=calls) as uffd,
        pytest.raises(UsageError, match="give None to wait for ever"),
    ):
        uffd.poll(timeout)


class NeverAsked:
    page_size = 4096

    def identity(self, _: int) -> tuple[int, int]:
        return 0, 0

    def close(self, _: int) -> None: ...


@pytest.mark.kernel("userfaultfd")
def test_a_descriptor_that_the_program_closed_is_not_one_without_messages() -> None:
    """False would say that the time ran out, though nobody had waited."""
    uffd = Userfaultfd()
    os.close(uffd.fileno())
    with pytest.raises(OSError, match="was closed by the program") as caught:
        uffd.poll(None)
    assert caught.value.errno == errno.EBADF
    uffd.close()


@pytest.mark.kernel("userfaultfd")
def test_polling_a_blocking_one_is_misuse() -> None:
    with Userfaultfd(nonblocking=False) as uffd, pytest.raises(UsageError, match="nonblocking=True"):
        uffd.poll(0)


# ---- events --------------------------------------------------------------------------------------


@needs_faults
@pytest.mark.parametrize("advice", [MADV_DONTNEED, MADV_FREE])
def test_dropping_content_is_announced_before_it_happens(
    advice: int, memory: Memory, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    start = memory(4)
    calls.store(start, b"x" * 4 * page)
    with missing(start, 4 * page, abi.UFFD_FEATURE_EVENT_REMOVE) as uffd:
        dropper = in_thread(calls.madvise, start + page, 2 * page, advice)
        assert uffd.poll(10)
        # Until it is read the resolving ioctls are refused: nothing done, and no length of −11.
        with pytest.raises(BlockingIOError) as refusal:
            uffd.zeropage(start, page)
        assert refusal.value.errno == errno.EAGAIN
        assert uffd.read() == (Remove(start + page, start + 3 * page),)
        dropper.join(10)


@needs_faults
def test_moving_is_announced_with_both_places(
    calls: KernelCalls, page: int, in_thread: InThread, memory: Memory
) -> None:
    start = calls.mmap(0, 2 * page, 3, 0x22)
    calls.store(start, b"x" * 2 * page)
    features = abi.UFFD_FEATURE_EVENT_REMAP | abi.UFFD_FEATURE_EVENT_UNMAP
    moved: list[int] = []
    target = calls.mmap(0, 2 * page, 0, 0x22)
    with missing(start, 2 * page, features) as uffd:
        mover = in_thread(
            lambda: moved.append(calls.mremap(start, 2 * page, 2 * page, MREMAP_MAYMOVE | 2, target))
        )
        messages: list[Message] = []
        while len(messages) < 2:
            assert uffd.poll(10)
            messages += uffd.read()
        mover.join(10)
        assert messages == [Remap(start, target, 2 * page), Unmap(start, start + 2 * page)]
    assert moved == [target]
    calls.munmap(target, 2 * page)


READER = """
import os, sys
from writewatch.kernel.messages import Fork
from writewatch.kernel.userfaultfd import Userfaultfd
with Userfaultfd.from_fd(int(sys.argv[1])) as uffd:
    print("ready", flush=True)
    assert uffd.poll(30)
    (message,) = uffd.read()
    assert isinstance(message, Fork), message
    with message.userfaultfd as child:
        print(child.enabled == uffd.enabled, os.get_inheritable(child.fileno()), flush=True)
"""


@pytest.mark.kernel("kernel_faults")
def test_fork_hands_over_a_descriptor_of_the_child(memory: Memory, page: int) -> None:
    # os.fork() keeps the GIL while Linux holds the parent, so another process has to read the event.
    try:
        uffd = Userfaultfd(abi.UFFD_FEATURE_EVENT_FORK)
    except PermissionError:
        pytest.skip("EVENT_FORK needs CAP_SYS_PTRACE")
    with uffd:
        fd = uffd.fileno()
        command = [sys.executable, "-c", READER, str(fd)]
        with subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
            uffd.register(memory(1), page, missing=True)
            if not (child := os.fork()):
                os._exit(0)
            os.waitpid(child, 0)
            assert reader.stdout.readline() == "True False\n"
        assert reader.returncode == 0


# ---- asyncio -------------------------------------------------------------------------------------


@needs_faults
def test_messages_arrive_in_a_loop(
    memory: Memory, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    start = memory(4)

    async def serve(uffd: Userfaultfd) -> list[int]:
        in_thread(calls.store, start, b"x" * 4 * page)
        served: list[int] = []
        async for message in uffd.messages():
            assert isinstance(message, Pagefault)
            served.append(message.address)
            uffd.zeropage(message.address, page)
            if len(served) == 4:
                break
        return served

    with missing(start, 4 * page) as uffd:
        assert asyncio.run(serve(uffd)) == [start + n * page for n in range(4)]


@needs_faults
def test_leaving_the_loop_loses_no_message(
    memory: Memory, calls: KernelCalls, page: int, in_thread: InThread
) -> None:
    start = memory(2)

    async def first(uffd: Userfaultfd) -> Message:
        async for message in uffd.messages():
            return message
        raise AssertionError("ended")

    with missing(start, 2 * page) as uffd:
        for n in range(2):
            in_thread(calls.store, start + n * page, b"x")
        while waiting(uffd) < 2:
            assert uffd.poll(10)
        one = asyncio.run(first(uffd))
        (other,) = uffd.read()
        assert {one.address, other.address} == {start, start + page}  # type: ignore[union-attr]
        uffd.zeropage(start, 2 * page)


async def _collect(uffd: Userfaultfd, into: list[Message]) -> None:
    into.extend([message async for message in uffd.messages()])


async def _begin(uffd: Userfaultfd, into: list[Message]) -> asyncio.Task[None]:
    """A task that has come to the point where it waits."""
    task = asyncio.create_task(_collect(uffd, into))
    await asyncio.sleep(0)
    return task


@pytest.mark.kernel("userfaultfd")
def test_cancelling_leaves_no_reader_and_no_lock(memory: Memory) -> None:
    async def go() -> None:
        with Userfaultfd() as uffd:
            for _ in range(3):
                task = await _begin(uffd, [])
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not asyncio.get_running_loop().remove_reader(uffd.fileno())

    asyncio.run(go())


@pytest.mark.kernel("userfaultfd")
def test_closing_ends_the_iteration() -> None:
    async def go() -> None:
        uffd = Userfaultfd()
        fd = uffd.fileno()
        seen: list[Message] = []
        task = await _begin(uffd, seen)
        uffd.close()
        await task
        assert seen == []
        assert not asyncio.get_running_loop().remove_reader(fd)

    asyncio.run(go())


@pytest.mark.kernel("userfaultfd")
def test_a_second_waiting_task_is_misuse_and_does_not_disturb_the_first() -> None:
    async def go() -> None:
        with Userfaultfd() as uffd:
            first = await _begin(uffd, [])
            with pytest.raises(UsageError, match="iterate over them in one task"):
                await _collect(uffd, [])
            assert not first.done()
            uffd.close()
            await first

    asyncio.run(go())


@pytest.mark.kernel("userfaultfd")
def test_a_loop_that_was_closed_under_its_task_is_in_nobodys_way() -> None:
    uffd = Userfaultfd()
    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(_begin(uffd, []))
    loop.close()

    async def go() -> None:
        task = await _begin(uffd, [])
        # What the closed loop leaves of its task is thrown away now, which must not stop the new one's waiting.
        left.get_coro().close()
        assert not task.done()
        uffd.close()
        await task

    asyncio.run(go())
    _silence(left)


@pytest.mark.kernel("userfaultfd")
def test_closing_after_the_loop_was_closed_under_its_task() -> None:
    uffd = Userfaultfd()
    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(_begin(uffd, []))
    loop.close()
    uffd.close()
    assert uffd.closed
    left.get_coro().close()
    _silence(left)


def _silence(left: asyncio.Task[None]) -> None:
    """A task that never ended complains of it when it is thrown away."""
    left._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.kernel("userfaultfd")
def test_a_refused_reader_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        with Userfaultfd() as uffd:
            with monkeypatch.context() as patch:
                patch.setattr(asyncio.get_running_loop(), "add_reader", _refuse_reader)
                with pytest.raises(NotImplementedError):
                    await _collect(uffd, [])
            task = await _begin(uffd, [])
            uffd.close()
            await task

    asyncio.run(go())


def _refuse_reader(*_: object) -> None:
    raise NotImplementedError


@pytest.mark.kernel("userfaultfd")
def test_a_blocking_one_cannot_be_iterated() -> None:
    async def go() -> None:
        with Userfaultfd(nonblocking=False) as uffd, pytest.raises(UsageError, match="nonblocking=True"):
            await _collect(uffd, [])

    asyncio.run(go())
