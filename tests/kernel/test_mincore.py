"""mincore(2) on the running kernel and on the model: what is in memory, mapped here or not."""

from __future__ import annotations

import errno

import pytest

from tests.tracker.door import calls_of
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import (
    MADV_DONTNEED,
    MADV_REMOVE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
)

RW = PROT_READ | PROT_WRITE


@pytest.fixture(params=["linux", "model"])
def calls(request: pytest.FixtureRequest) -> KernelCalls:
    return calls_of(request.param)


def mapped(calls: KernelCalls, kind: int) -> int:
    """Four pages, of which the second was written."""
    start = calls.mmap(0, 4 * calls.page_size, RW, kind | MAP_ANONYMOUS)
    calls.store(start + calls.page_size, b"x")
    return start


@pytest.mark.parametrize("kind", [MAP_SHARED, MAP_PRIVATE])
def test_what_was_written_is_in_memory(calls: KernelCalls, kind: int) -> None:
    start = mapped(calls, kind)
    assert calls.mincore(start, 4 * calls.page_size).tolist() == [0, 1, 0, 0]
    calls.munmap(start, 4 * calls.page_size)


@pytest.mark.parametrize(
    ("kind", "advice", "left"),
    [(MAP_SHARED, MADV_DONTNEED, 1), (MAP_SHARED, MADV_REMOVE, 0), (MAP_PRIVATE, MADV_DONTNEED, 0)],
    ids=["shared, dropped from the mapping", "shared, dropped from the file", "private, dropped"],
)
def test_what_is_dropped_from_a_mapping_only_stays_in_memory(
    calls: KernelCalls, kind: int, advice: int, left: int
) -> None:
    start = mapped(calls, kind)
    calls.madvise(start, 4 * calls.page_size, advice)
    assert calls.mincore(start, 4 * calls.page_size).tolist() == [0, left, 0, 0]
    calls.munmap(start, 4 * calls.page_size)


def test_memory_that_is_not_mapped_is_refused(calls: KernelCalls) -> None:
    start = mapped(calls, MAP_PRIVATE)
    calls.munmap(start, 4 * calls.page_size)
    with pytest.raises(OSError, match="mincore") as caught:
        calls.mincore(start, 4 * calls.page_size)
    assert caught.value.errno == errno.ENOMEM
