"""Writers that no page table of ours records: who is found, who is named, and that it is said once."""

from __future__ import annotations

import ctypes
import mmap
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest

import writewatch as ww
from tests.tracker.door import memory_of, require
from writewatch.abi.mman import MAP_ANONYMOUS, MAP_FIXED, MAP_SHARED, PROT_READ, PROT_WRITE
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.default import default_calls
from writewatch.pages import AddrRange
from writewatch.tracker.blindness import BlindSpots

RW = PROT_READ | PROT_WRITE


class Pinning(LinuxCalls):
    """The running kernel, with some memory pinned."""

    pinned = 0

    def pinned_bytes(self, pid: int | None) -> int:
        return self.pinned

    def read_pinned(self, fd: int) -> int:
        return self.pinned


class Clock:
    """Nanoseconds that pass when a test says so, and one with every look."""

    now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.fixture
def table(page_size: int) -> Any:
    return ww.allocate((10, page_size), "u1")


@pytest.fixture
def watch() -> Iterator[Callable[..., tuple[BlindSpots, Pinning, Clock]]]:
    made = []

    def make(*, named_bytes: int = 0) -> tuple[BlindSpots, Pinning, Clock]:
        calls: Any = Pinning()
        clock = Clock()
        made.append(BlindSpots(calls, [AddrRange(0, 0)], named_bytes, clock))
        return made[-1], calls, clock

    yield make
    for one in made:
        one.close()


def told(check: Callable[[], object]) -> list[str]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    return [str(one.message) for one in caught]


# ---- pinned memory -------------------------------------------------------------------------------


def test_pinned_memory_is_warned_of_once_with_its_size(watch: Any) -> None:
    blind, calls, clock = watch()
    assert told(lambda: blind.check(1)) == []
    calls.pinned = 8192
    clock.now += 10**9
    (sentence,) = told(lambda: blind.check(1))
    assert sentence.startswith("8192 bytes of this process are pinned")
    assert "track(…, pinned=…)" in sentence
    clock.now += 10**9
    assert told(lambda: blind.check(1)) == []


def test_memory_that_was_named_may_be_pinned(watch: Any) -> None:
    blind, calls, clock = watch(named_bytes=8192)
    calls.pinned = 8192
    assert told(lambda: blind.check(1)) == []
    calls.pinned = 8193
    clock.now += 10**9
    assert len(told(lambda: blind.check(1))) == 1


def test_looking_again_is_put_off_for_less_than_a_second(watch: Any) -> None:
    blind, calls, clock = watch()
    blind.check(1)
    calls.pinned = 8192
    assert told(lambda: blind.check(1)) == [], "looked at again at once"
    clock.now += 10**9
    assert len(told(lambda: blind.check(1))) == 1


def test_closing_gives_back_the_descriptor_and_may_be_repeated(watch: Any) -> None:
    before = len(os.listdir("/proc/self/fd"))
    blind, _, _ = watch()
    blind.close()
    blind.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tracker_warns_of_pinned_memory_where_it_is_made(table: Any) -> None:
    calls: Any = Pinning()
    calls.pinned = 4096
    with pytest.warns(ww.UnseenWritesWarning, match="4096 bytes of this process are pinned") as caught:
        ww.track(table, backend="every-page", calls=calls).close()
    assert [one.filename for one in caught] == [__file__]


@pytest.mark.parametrize("operation", ["collect", "is_clean"])
def test_a_warning_points_at_the_line_that_asked(operation: str) -> None:
    memory = mmap.mmap(-1, 8192)
    with ww.track(memory, backend="every-page") as tracker:
        fork_and_wait()
        with pytest.warns(ww.UnseenWritesWarning, match="this process forked") as caught:
            getattr(tracker, operation)()
    assert [one.filename for one in caught] == [__file__]


def test_named_ranges_are_always_reported_as_assumed(backend: str, table: Any, page_size: int) -> None:
    with ww.track(table, backend=backend, pinned=[table[3:5]]) as tracker:
        for _ in range(2):
            assert not tracker.is_clean()
            dirty = tracker.collect()
            assert {3, 4} <= set(dirty.pages(table).tolist())
            assert not dirty.exact
            assert dirty.assumed["start"][0] <= table.ctypes.data + 3 * page_size
        backup = tracker.consumer("backup").collect()
        assert {3, 4} <= set(backup.pages(table).tolist())


def test_a_named_range_may_be_read_only_or_any_part_of_a_buffer(table: Any) -> None:
    view = table[2]
    view.flags.writeable = False
    with ww.track(table, backend="every-page", pinned=[view, table[7, 3:4], table[:0]]) as tracker:
        assert tracker.statistics().pinned_bytes == 2 * tracker.page_size


# ---- ways past the processor, for real -----------------------------------------------------------


libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def ring() -> Iterator[int]:
    fd = libc.syscall(425, 4, ctypes.create_string_buffer(120))  # io_uring_setup(4, params)
    if fd < 0:
        pytest.skip(f"io_uring: {os.strerror(ctypes.get_errno())}")
    yield fd
    os.close(fd)


def test_an_io_uring_is_named_once(table: Any, ring: int) -> None:
    with pytest.warns(ww.UnseenWritesWarning, match=rf"descriptor {ring} can read .*\(an io_uring\)"):
        tracker = ww.track(table, backend="every-page")
    with tracker:
        assert told(tracker.collect) == []


PINNING = """
import ctypes, os, sys, warnings
import writewatch as ww

class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))

table = ww.allocate((10, 4096), "u1")
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))  # io_uring_setup
iovec = Iovec(table.ctypes.data, table.nbytes)
if libc.syscall(427, ring, 0, ctypes.byref(iovec), 1) < 0:  # io_uring_register(IORING_REGISTER_BUFFERS)
    print(os.strerror(ctypes.get_errno()))
    sys.exit(77)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ww.track(table, backend="every-page").close()
print(*(one.message for one in caught), sep="\\n")
"""


@pytest.mark.usefixtures("ring")
def test_buffers_that_io_uring_pins_are_warned_of() -> None:
    """In a process of its own: Linux takes its time to unpin after the ring is closed."""
    answer = subprocess.run([sys.executable, "-c", PINNING], capture_output=True, text=True, check=False)
    if answer.returncode == 77:
        pytest.skip(f"io_uring: {answer.stdout.strip()}")
    assert answer.stdout.startswith("40960 bytes of this process are pinned")


def test_a_file_that_is_read_directly_is_named(table: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(8192))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"O_DIRECT: {error}")
    try:
        with pytest.warns(ww.UnseenWritesWarning, match=rf"descriptor {fd} can .*\(opened with O_DIRECT\)"):
            ww.track(table, backend="every-page").close()
    finally:
        os.close(fd)


def test_a_pipe_of_packets_and_a_file_that_is_only_written_read_nothing(
    table: Any, tmp_path: pathlib.Path
) -> None:
    ends = os.pipe2(os.O_DIRECT)
    try:
        written = os.open(tmp_path / "numbers", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        written = os.open(tmp_path / "numbers", os.O_WRONLY | os.O_CREAT)
    try:
        assert told(lambda: ww.track(table, backend="every-page").close()) == []
    finally:
        for fd in (*ends, written):
            os.close(fd)


# ---- files and shared memory ---------------------------------------------------------------------


def test_a_file_is_named_once(tmp_path: pathlib.Path) -> None:
    values = np.memmap(tmp_path / "numbers", "u1", "w+", shape=(100_000,))
    with pytest.warns(ww.UnseenWritesWarning) as caught:
        tracker = ww.track(values[:50_000], values[10:], backend="every-page")
    (sentence,) = [str(one.message) for one in caught]
    assert sentence.startswith(f"{tmp_path}/numbers: only stores of this process")
    assert [one.filename for one in caught] == [__file__]
    with tracker:
        assert told(tracker.collect) == []


def test_a_private_copy_of_a_file_is_named_too(tmp_path: pathlib.Path) -> None:
    """Until a page is written, a private mapping shows what others write to the file."""
    (tmp_path / "numbers").write_bytes(bytes(100_000))
    values = np.memmap(tmp_path / "numbers", "u1", "c")
    with pytest.warns(ww.UnseenWritesWarning, match="numbers: only stores"):
        ww.track(values, backend="every-page").close()


def test_shared_memory_with_a_name_is_named() -> None:
    memory = SharedMemory(create=True, size=10_000)
    try:
        with pytest.warns(ww.UnseenWritesWarning, match=f"/dev/shm/{memory.name.lstrip('/')}: only stores"):
            ww.track(memory, backend="every-page").close()
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.parametrize("flags", [mmap.MAP_PRIVATE, mmap.MAP_SHARED], ids=["private", "shared"])
def test_anonymous_memory_has_no_other_writers(flags: int) -> None:
    memory = mmap.mmap(-1, 10_000, flags=flags | mmap.MAP_ANONYMOUS)
    assert told(lambda: ww.track(memory, backend="every-page").close()) == []


# ---- children ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["uffd-wp", "uffd-wp-sync"])
def test_a_child_is_named_that_shares_what_became_shared_while_it_was_tracked(backend: str) -> None:
    calls = default_calls()
    require(calls, backend)
    with memory_of(calls, 4) as memory, ww.track(memory.span, backend=backend) as tracker:
        calls.mmap(memory.start, memory.length, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED)
        with pytest.warns(ww.TrackingLostWarning):
            tracker.collect()
        fork_and_wait()
        with pytest.warns(ww.UnseenWritesWarning, match="this process forked"):
            tracker.collect()


def fork() -> int:
    with warnings.catch_warnings():
        # Since Python 3.12, when the process has threads. NumPy's may have some, which the child does without.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def fork_and_wait() -> None:
    child = fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def test_a_child_that_shares_the_memory_is_warned_of_once() -> None:
    memory = mmap.mmap(-1, 10_000)
    with ww.track(memory, backend="every-page") as tracker:
        fork_and_wait()
        (sentence,) = told(tracker.collect)
        assert sentence.startswith("a child shares tracked memory (MAP_SHARED)")
        fork_and_wait()
        assert told(tracker.collect) == []


def test_a_child_with_a_copy_of_its_own_is_no_matter(table: Any) -> None:
    with ww.track(table, backend="every-page") as tracker:
        fork_and_wait()
        assert told(tracker.collect) == []


def test_a_relative_that_shares_the_memory_already_is_named() -> None:
    memory = mmap.mmap(-1, 10_000)
    reader, writer = os.pipe()
    child = fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)  # until the parent closes its end
        os._exit(0)
    os.close(reader)
    try:
        with pytest.warns(ww.UnseenWritesWarning, match=f"process {child} shares tracked memory"):
            ww.track(memory, backend="every-page").close()
    finally:
        os.close(writer)
        os.waitpid(child, 0)
    assert told(lambda: ww.track(memory, backend="every-page").close()) == []
