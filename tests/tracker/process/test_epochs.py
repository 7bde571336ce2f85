"""What may happen to memory between two looks, case by case: nothing is missed, and little more is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import writewatch as ww
from tests.tracker.process.targets import PAGE, Target, pages_in, reported, vm_lines

pytestmark = pytest.mark.kernel("uffd_wp_async")


@pytest.fixture(params=[64, 2048], ids=["small", "large"])
def n(request: pytest.FixtureRequest) -> int:
    """Pages of a mapping: small ones are walked whole, of large ones only what matters is asked."""
    size: int = request.param
    return size


@pytest.fixture
def tracker(target: Target) -> Iterator[ww.ProcessTracker]:
    with ww.attach(target.pid) as made:
        yield made


def test_only_what_was_written_since_is_reported(target: Target, tracker: ww.ProcessTracker, n: int) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    target.run(f"poke({start}, 3, 7); peek({start}, 9)")
    writes = tracker.collect()
    assert pages_in(writes.written, start, n) == [3, 7]
    assert reported(writes, start, n) == [3, 7]
    assert writes.exact
    assert reported(tracker.collect(), start, n) == []


def test_storing_the_same_value_is_a_write(target: Target, tracker: ww.ProcessTracker) -> None:
    start = target.memory(8)
    target.run(f"poke({start}, 1)")
    tracker.collect()
    target.run(f"poke({start}, 1)")
    assert reported(tracker.collect(), start, 8) == [1]


def test_the_pages_of_a_new_mapping_are_assumed(target: Target, tracker: ww.ProcessTracker, n: int) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, 3, 7)")
    assert pages_in(tracker.collect().assumed, start, n) == [3, 7]


def test_a_mapping_that_is_read_for_the_first_time_is_not_written(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = target.memory(n)
    target.run(f"peek({start}, *range({n}))")
    assert reported(tracker.collect(), start, n) == []
    target.run(f"poke({start}, 5)")
    assert reported(tracker.collect(), start, n) == [5]


def test_the_heap_grows(target: Target, tracker: ww.ProcessTracker) -> None:
    tracker.collect()
    start = target.run(f"answer = ok(libc.sbrk({64 * PAGE})); poke(-(-answer // P) * P, 1, 2)")
    first = -(-start // PAGE) * PAGE
    assert reported(tracker.collect(), first, 63) == [1, 2]


def test_a_reserve_is_opened_in_part(target: Target, tracker: ww.ProcessTracker) -> None:
    start = target.memory(4096, "NONE")
    tracker.collect()
    target.run(f"ok(libc.mprotect({start}, 64 * P, RW)); poke({start}, 3, 9)")
    writes = tracker.collect()
    assert pages_in(writes.written, start, 64) == [3, 9]
    target.run(f"poke({start}, 4)")
    assert reported(tracker.collect(), start, 64) == [4]


def test_a_mapping_that_moved_is_reported_whole(target: Target, tracker: ww.ProcessTracker, n: int) -> None:
    start, away = target.memory(n), target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    target.run(f"ok(libc.mremap({start}, {n} * P, {n} * P, 3, {away})); poke({away}, 1)")
    assert pages_in(tracker.collect().assumed, away, n) == list(range(n))
    target.run(f"poke({away}, 2)")
    writes = tracker.collect()
    assert pages_in(writes.written, away, n) == [2]
    assert reported(writes, away, n) == [2]


def test_a_mapping_moved_and_left_empty_is_discarded(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start, away = target.memory(n), target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    target.run(f"ok(libc.mremap({start}, {n} * P, {n} * P, 7, {away}))")  # MREMAP_DONTUNMAP
    writes = tracker.collect()
    assert pages_in(writes.discarded, start, n) == list(range(n))
    assert pages_in(writes.assumed, away, n) == list(range(n))


def test_unmapped_and_mapped_again_in_the_same_place(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range(32))")
    tracker.collect()
    target.run(f"ok(libc.munmap({start}, {n} * P)); memory({n}, at={start}, flags=PRIVATE|ANON|FIXED)")
    target.run(f"poke({start}, 3, 40)")
    writes = tracker.collect()
    assert pages_in(writes.assumed, start, n) == [3, 40]
    assert pages_in(writes.discarded, start, n) == [page for page in range(32) if page != 3]
    target.run(f"poke({start}, 5)")
    assert reported(tracker.collect(), start, n) == [5]


def test_an_unmapped_page_is_not_reported(target: Target, tracker: ww.ProcessTracker, n: int) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    target.run(f"ok(libc.munmap({start}, {n} * P))")
    writes = tracker.collect()
    assert reported(writes, start, n) == []
    assert not any(mapping.start <= start < mapping.end for mapping in writes.mappings)


@pytest.mark.parametrize("then", ["pass", "peek({0}, *range(8, 16))"], ids=["left alone", "read"])
def test_pages_given_back_are_discarded(
    target: Target, tracker: ww.ProcessTracker, n: int, then: str
) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    target.run(f"ok(libc.madvise({start} + 8 * P, 8 * P, 4)); {then.format(start)}")
    writes = tracker.collect()
    assert pages_in(writes.discarded, start, n) == list(range(8, 16))
    assert reported(writes, start, n) == list(range(8, 16))
    assert reported(tracker.collect(), start, n) == []


def test_pages_given_back_and_written_again_are_written(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    target.run(f"ok(libc.madvise({start}, {n} * P, 4)); poke({start}, 5)")
    writes = tracker.collect()
    assert pages_in(writes.written, start, n) == [5]
    assert pages_in(writes.discarded, start, n) == [page for page in range(n) if page != 5]


def test_pages_written_and_given_back_within_one_epoch_were_nothing(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = target.memory(n)
    tracker.collect()
    target.run(f"poke({start}, 5); ok(libc.madvise({start}, {n} * P, 4))")
    assert reported(tracker.collect(), start, n) == []


def test_guard_pages_are_no_writes(target: Target, tracker: ww.ProcessTracker, n: int) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range(8))")
    tracker.collect()
    if target.run(f"answer = libc.madvise({start} + 4 * P, 8 * P, 102)"):  # MADV_GUARD_INSTALL, since 6.13
        pytest.skip("this kernel has no MADV_GUARD_INSTALL")
    writes = tracker.collect()
    assert pages_in(writes.discarded, start, n) == [4, 5, 6, 7]
    assert pages_in(writes.written, start, n) == []


# ---- files and shared memory ---------------------------------------------------------------------


def file_memory(target: Target, pages: int, flags: str) -> int:
    return int(
        target.run(
            f"import tempfile; f = tempfile.TemporaryFile(); f.write(b'x' * P * {pages}); f.flush(); "
            f"answer = memory({pages}, RW, {flags}, f.fileno())"
        )
    )


def test_a_private_page_of_a_file_that_is_only_read_is_not_written(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = file_memory(target, n, "PRIVATE")
    target.run(f"peek({start}, *range({n})); poke({start}, 3)")
    assert reported(tracker.collect(), start, n) == [3]
    target.run(f"poke({start}, 4, 3)")
    assert reported(tracker.collect(), start, n) == [3, 4]


def test_a_private_page_of_a_file_that_is_given_back_changes(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = file_memory(target, n, "PRIVATE")
    target.run(f"poke({start}, 3, 4)")
    tracker.collect()
    target.run(f"ok(libc.madvise({start}, {n} * P, 4))")
    assert reported(tracker.collect(), start, n) == [3, 4]
    assert reported(tracker.collect(), start, n) == []


@pytest.mark.parametrize("kind", ["memfd", "file", "anonymous"])
def test_shared_memory(target: Target, tracker: ww.ProcessTracker, n: int, kind: str) -> None:
    if kind == "file":
        start = file_memory(target, n, "SHARED")
    elif kind == "memfd":
        start = target.run(
            f"m = os.memfd_create('m'); os.ftruncate(m, {n} * P); answer = memory({n}, RW, SHARED, m)"
        )
    else:
        start = target.memory(n, "RW", "SHARED | ANON")
    target.run(f"poke({start}, 1, 2)")
    assumed = pages_in(tracker.collect().assumed, start, n)
    assert assumed == [1, 2] or (kind == "file" and set(assumed) > {1, 2})  # Linux maps large folios whole
    target.run(f"poke({start}, 2)")
    writes = tracker.collect()
    found = pages_in(writes.written, start, n)
    assert found == [2] or (2 in found and not writes.exact)  # a huge page of a file is written whole
    target.run(f"peek({start}, 9)")
    writes = tracker.collect()
    assert pages_in(writes.written, start, n) == []
    # Mapped for the first time: a write looks the same.
    assert pages_in(writes.assumed, start, n) == ([] if 9 in assumed else [9])
    assert writes.exact
    target.run(f"peek({start}, 9)")
    assert reported(tracker.collect(), start, n) == []


def test_a_shared_page_that_was_written_and_evicted_is_reported(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = file_memory(target, n, "SHARED")
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    evict = f"libc.msync(ctypes.c_void_p({start}), {n} * P, 4); libc.madvise({start}, {n} * P, 21)"
    target.run(f"poke({start}, 5, value=2); {evict}")  # MS_SYNC, MADV_PAGEOUT
    if tracker._session.files.pagemap.entries(start + 5 * PAGE, start + 6 * PAGE)[0]:
        pytest.skip("Linux did not evict the page")
    writes = tracker.collect()
    assert 5 in pages_in(writes.assumed, start, n)


def test_shared_memory_that_cannot_be_written_is_not_tracked_and_says_so(
    target: Target, tracker: ww.ProcessTracker
) -> None:
    start = target.run(
        "import tempfile; t = tempfile.NamedTemporaryFile(); t.write(b'x' * P); t.flush(); "
        "r = os.open(t.name, os.O_RDONLY); answer = memory(1, R, SHARED, r)"
    )
    mapping = next(one for one in tracker.collect().mappings if one.start == start)
    assert not mapping.tracked
    assert "cannot be written through this mapping" in str(mapping.unseen)


def test_huge_pages_of_a_file_are_reported_whole_and_not_as_exact(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    size = 2 << 20
    start = target.run(f"answer = libc.mmap(None, {2 * size}, RW, PRIVATE | ANON | 0x40000, -1, 0)")
    if start in (None, 2**64 - 1):
        pytest.skip("no huge page is free (vm.nr_hugepages)")
    pages = size // PAGE
    target.run(f"poke({start}, 0, {pages})")
    tracker.collect()
    target.run(f"poke({start}, 1)")
    writes = tracker.collect()
    assert reported(writes, start, 2 * pages) == list(range(pages))
    assert not writes.exact


def test_the_first_store_to_a_transparent_huge_page_is_assumed_to_have_written_all_of_it(
    target: Target, tracker: ww.ProcessTracker
) -> None:
    pages = (2 << 20) // PAGE
    start = target.run("a = memory(2048); answer = -(-a // (2 << 20)) * (2 << 20)")
    target.run(f"libc.madvise({start}, {pages} * P, 14)")
    tracker.collect()
    target.run(f"poke({start}, 7)")
    writes = tracker.collect()
    if len(reported(writes, start, pages)) == 1:
        pytest.skip("Linux gave no huge page here (transparent_hugepage/enabled)")
    assert pages_in(writes.assumed, start, pages) == list(range(pages))
    target.run(f"poke({start}, 7)")
    assert reported(tracker.collect(), start, pages) == [7]


def test_a_page_in_swap_is_reported_only_if_it_was_written(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    target.run(f"poke({start}, 5, value=2); libc.madvise({start}, 16 * P, 21)")  # MADV_PAGEOUT
    entries = tracker._session.files.pagemap.entries(start, start + 16 * PAGE)
    if not entries[5] >> 62 & 1 or not entries[6] >> 62 & 1:
        pytest.skip("nothing went to swap: there is none, or it is full")
    writes = tracker.collect()
    assert pages_in(writes.written, start, n) == [5]
    assert reported(writes, start, n) == [5]
    target.run(f"peek({start}, 5, 6); poke({start}, 7)")
    assert reported(tracker.collect(), start, n) == [7]


# ---- who writes ----------------------------------------------------------------------------------


def test_what_the_kernel_writes_is_reported(target: Target, tracker: ww.ProcessTracker, n: int) -> None:
    start = target.memory(n)
    target.run(
        f"poke({start}, *range({n})); z = open('/dev/zero', 'rb'); a, b = socket.socketpair(); b.send(b'x')"
    )
    tracker.collect()
    target.run(
        f"libc.read(z.fileno(), ctypes.c_void_p({start} + 3 * P), 1); "
        f"libc.recv(a.fileno(), ctypes.c_void_p({start} + 5 * P), 1, 0)"
    )
    assert reported(tracker.collect(), start, n) == [3, 5]


def test_what_another_process_writes_here_is_reported(
    target: Target, tracker: ww.ProcessTracker, n: int
) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    tracker.collect()
    with open(f"/proc/{target.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(start + 9 * PAGE)
        memory.write(b"y")
    assert reported(tracker.collect(), start, n) == [9]


# ---- what it costs -------------------------------------------------------------------------------


def test_a_sparse_gigabyte_keeps_its_page_tables(target: Target, tracker: ww.ProcessTracker) -> None:
    pages = (1 << 30) // PAGE
    start = target.memory(pages, "RW", "PRIVATE | ANON | NORESERVE")
    target.run(f"poke({start}, *range(0, {pages}, {pages // 16}))")
    before = vm_lines(target.pid, "VmPTE")["VmPTE"]
    for _ in range(3):
        tracker.collect()
        target.run(f"poke({start}, 0)")
    assert vm_lines(target.pid, "VmPTE")["VmPTE"] - before <= 32 * PAGE


def test_asking_how_long_to_put_off_counts_first_writes_and_changes_nothing(target: Target) -> None:
    n = 4096  # the interpreter writes some of its own
    with ww.attach(target.pid, budget=1e-9) as tracker:
        start = target.memory(n)
        target.run(f"poke({start}, *range({n}))")
        tracker.collect()
        fresh = target.memory(n)
        target.run(f"poke({start}, *range(0, {n}, 2)); poke({fresh}, *range({n}))")
        assert n // 2 <= tracker._session.backend.n_faults_so_far() < n
        assert tracker.put_off_s() > 0
        writes = tracker.collect()
        assert reported(writes, start, n) == list(range(0, n, 2))
        assert reported(writes, fresh, n) == list(range(n))
    assert tracker.put_off_s() == 0


def test_without_a_budget_nothing_is_put_off(target: Target) -> None:
    with ww.attach(target.pid, budget=None) as tracker:
        start = target.memory(64)
        target.run(f"poke({start}, *range(64))")
        assert tracker.put_off_s() == 0
