"""Processes that are special: without a leader, with too many mappings, gone before they could be looked at."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import threading

import pytest

import writewatch as ww
from tests.tracker.process.targets import Target, compiled, is_running, n_armed, reported
from writewatch.tracker.process import session, tracking
from writewatch.tracker.process.family import Brood, shares_memory
from writewatch.tracker.process.procfiles import command_of, has_memory

pytestmark = pytest.mark.kernel("uffd_wp_async")


def test_a_process_whose_first_thread_has_ended_is_watched() -> None:
    program = compiled(pathlib.Path(__file__).with_name("leaderless.c"))
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        start = int(process.stdout.readline())
        while "State:\tZ" not in pathlib.Path(f"/proc/{process.pid}/status").read_text():
            os.sched_yield()
        with ww.attach(process.pid) as tracker:
            process.stdin.write("3\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            assert reported(tracker.collect(), start, 64) == [3]
            process.stdin.close()
            assert tracker.wait(10)
            with pytest.raises(ww.TrackingLostError, match="has exited"):
                tracker.collect()


# ---- vm.max_map_count ----------------------------------------------------------------------------


def allow(monkeypatch: pytest.MonkeyPatch, n_mappings: int) -> None:
    """Pretend that a process may have so many mappings."""
    monkeypatch.setattr(tracking, "max_map_count", lambda: n_mappings)
    monkeypatch.setattr(session, "max_map_count", lambda: n_mappings)


def test_with_half_of_the_mappings_used_epochs_grow_longer(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ww.attach(target.pid) as tracker:
        writes = tracker.collect()
        quick = tracker.budget.period_s(100)
        allow(monkeypatch, int(1.5 * sum(len(one.vmas) for one in writes.mappings)))
        tracker.collect()
        assert tracker.budget.period_s(100) == 4 * quick


def test_with_nearly_all_used_watching_ends_and_leaves_nothing(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ww.attach(target.pid) as tracker:
        start = target.memory(8)
        target.run(f"poke({start}, 3)")
        allow(monkeypatch, 10)
        writes = tracker.collect()
        assert reported(writes, start, 8) == [3]
        assert "raise vm.max_map_count" in writes.notes[-1]
        with pytest.raises(ww.TrackingLostError, match="at most 10 mappings"):
            tracker.collect()
        assert n_armed(target.pid) == 0
        with pytest.raises(ww.AttachError, match="at most 10 mappings"):
            ww.attach(target.pid)
    assert is_running(target.process)


# ---- gone ----------------------------------------------------------------------------------------


def test_a_process_that_ends_while_it_is_attached_to_is_refused_at_worst() -> None:
    for _ in range(10):
        with Target() as target:
            killer = threading.Thread(target=target.process.kill)
            killer.start()
            with contextlib.suppress(ww.AttachError):
                ww.attach(target.pid).close()
            killer.join()


def test_nothing_is_known_of_a_process_that_is_gone() -> None:
    assert command_of(1 << 22) == ""
    assert not has_memory(1 << 22)
    assert Brood(1 << 22).fresh() == ()


def test_whether_two_processes_share_their_memory(target: Target) -> None:
    assert shares_memory(target.pid, target.pid)
    assert not shares_memory(target.pid, os.getpid())


# ---- what a tracker says of itself ---------------------------------------------------------------


def test_a_tracker_says_what_it_is(target: Target) -> None:
    with ww.attach(target.pid) as tracker:
        writes = tracker.collect()
        seen = tracker.statistics()
        assert (seen.pid, seen.backend, seen.state, seen.n_epochs) == (target.pid, "uffd-wp", "running", 1)
        assert seen.n_pages == writes.n_pages
        assert seen.n_mappings == len(writes.mappings)
        assert seen.scan_s > 0
        assert repr(tracker).startswith(
            f"<ProcessTracker of {tracker.command} ({target.pid}), running, uffd-wp, 1 "
        )
        assert tracker.exit_status is None
    assert "closed" in repr(tracker)
    with pytest.raises(ww.TrackerClosedError):
        tracker.wait(0)
