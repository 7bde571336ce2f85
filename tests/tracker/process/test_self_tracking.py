"""A program that tracks its own memory goes on doing so: what it wants to know is not taken from it."""

from __future__ import annotations

import pytest

import writewatch as ww
from tests.tracker.process.failing import FailingCalls
from tests.tracker.process.targets import PAGE, Target, pages_in, reported
from writewatch.abi.pagemap import PmScanArg
from writewatch.tracker.process.records import Options
from writewatch.tracker.process.select import take_by_ptrace

pytestmark = pytest.mark.kernel("uffd_wp_async")

_TRACK = """
import writewatch as ww
table = ww.allocate((64, P), 'u1')
tracker = ww.track(table, backend='uffd-wp')
answer = table.ctypes.data
"""


def test_its_bits_are_its_own(target: Target) -> None:
    start = target.run(_TRACK)
    with ww.attach(target.pid) as tracker:
        for page in range(5):
            target.run(f"table[{page}] = 1")
            writes = tracker.collect()
            tracker.collect()
            assert target.run("answer = tracker.collect().pages(table).tolist()") == [page]
        mapping = next(one for one in writes.mappings if one.start <= start < one.end)
        assert not mapping.tracked
        assert "registered with another userfaultfd" in str(mapping.unseen)
        beside = target.memory(4)
        target.run(f"poke({beside}, 1)")
        assert reported(tracker.collect(), beside, 4) == [1]
    target.run("table[9] = 1")
    assert target.run("answer = tracker.collect().pages(table).tolist()") == [9]


def test_what_was_taken_from_a_mapping_that_slipped_in_is_given_back(target: Target) -> None:
    start = target.memory(64)
    target.run(f"import writewatch as ww; poke({start}, *range(64)); pagemap = ww.Pagemap()")
    own = f"""
u = ww.Userfaultfd(0x8000)
ok(libc.munmap({start}, 64 * P)); memory(64, at={start}, flags=PRIVATE|ANON|FIXED)
poke({start}, *range(64)); u.register({start}, 64 * P, wp=True); u.write_protect({start}, 64 * P)
poke({start}, 3, 9)
"""
    calls = FailingCalls()
    options = Options("uffd-wp", False, False, None, take_by_ptrace, calls)
    with ww.ProcessTracker(target.pid, options) as tracker:
        tracker.collect()

        def slip_in(argument: PmScanArg) -> None:
            if argument.start <= start < argument.end:
                calls.before_protecting = None
                slipped.append(target.run(own))

        slipped: list[None] = []
        calls.before_protecting = slip_in
        writes = tracker.collect()
        assert slipped
        scan = (
            f"r = pagemap.scan({start}, {start + 64 * PAGE}, mask=2)\n"
            f"answer = [p for r0 in r for p in range(int(r0['start'] - {start}) // P, int(r0['end'] - {start}) // P)]"
        )
        assert target.run(scan) == [3, 9]
        assert not pages_in(writes.written, start, 64)
        mapping = next(one for one in tracker.collect().mappings if one.start == start)
        assert not mapping.tracked
