"""What a tracker says of itself: its numbers and how it prints."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import writewatch as ww


@pytest.fixture
def table(page_size: int) -> Any:
    return ww.allocate((100, page_size), "u1")


def test_pages_are_counted_once_however_many_buffers_lie_on_them(table: Any, page_size: int) -> None:
    with ww.track(table[:10], table[5:20], table[50, 7:9], np.zeros(0), backend="every-page") as tracker:
        statistics = tracker.statistics()
    assert statistics.n_buffers == 4
    assert statistics.tracked_bytes == 21 * page_size


def test_collects_of_all_consumers_are_counted_and_timed(backend: str, table: Any) -> None:
    with ww.track(table, backend=backend) as tracker:
        assert tracker.statistics().n_collects == 0
        assert tracker.statistics().last_collect_ns == 0
        backup = tracker.consumer("backup")
        for collect in (tracker.collect, backup.collect, backup.collect):
            collect()
        statistics = tracker.statistics()
    assert statistics.n_collects == 3
    assert 0 < statistics.last_collect_ns < statistics.total_collect_ns


def test_a_collect_that_fails_is_not_counted(table: Any) -> None:
    with ww.track(table, backend="every-page") as tracker:
        pass
    with pytest.raises(ww.TrackerClosedError):
        tracker.collect()
    assert tracker.statistics().n_collects == 0


def test_what_is_pending_is_held_until_it_is_collected(table: Any) -> None:
    with ww.track(table, backend="content-hash") as tracker:
        backup = tracker.consumer("backup")
        before = tracker.statistics().pending_bytes
        table[::2] += 1
        tracker.collect()
        assert tracker.statistics().pending_bytes > before
        backup.collect()
        assert tracker.statistics().pending_bytes == before


def test_the_backend_and_the_reason_are_those_of_the_tracker(backend: str, table: Any) -> None:
    with ww.track(table, backend=backend) as tracker:
        statistics = tracker.statistics()
        assert (statistics.backend, statistics.reason) == (tracker.backend, tracker.reason)


def test_pinned_pages_are_counted(table: Any, page_size: int) -> None:
    with ww.track(table, backend="every-page", pinned=[table[3:5], table[4, 9:12]]) as tracker:
        assert tracker.statistics().pinned_bytes == 2 * page_size


def test_a_closed_tracker_still_has_its_numbers(backend: str, table: Any, page_size: int) -> None:
    with ww.track(table, backend=backend) as tracker:
        tracker.collect()
    statistics = tracker.statistics()
    assert statistics.n_collects == 1
    assert statistics.tracked_bytes == 100 * page_size


def test_a_record_does_not_change(table: Any) -> None:
    with ww.track(table, backend="every-page") as tracker:
        before = tracker.statistics()
        tracker.collect()
        assert before.n_collects == 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            before.n_collects = 9  # type: ignore[misc]


# ---- how it prints -------------------------------------------------------------------------------


def test_a_tracker_prints_what_it_does(table: Any, page_size: int) -> None:
    with ww.track(table, table[:1], backend="every-page") as tracker:
        tracker.collect()
        size = 100 * page_size
        assert repr(tracker) == f"<Tracker of 2 buffers, {size} bytes in pages, by every-page, at epoch 1>"
    assert repr(tracker) == f"<Tracker of 2 buffers, {size} bytes in pages, closed>"


def test_one_buffer_is_one_buffer(table: Any) -> None:
    with ww.track(table, backend="every-page") as tracker:
        assert repr(tracker).startswith("<Tracker of 1 buffer, ")


def test_a_consumer_prints_its_position(table: Any) -> None:
    with ww.track(table, backend="every-page") as tracker:
        backup = tracker.consumer("backup")
        backup.collect()
        assert repr(backup) == f"<Consumer 'backup' at epoch 1 of {tracker!r}>"


def test_epochs_count_from_0_for_each_consumer(backend: str, table: Any) -> None:
    with ww.track(table, backend=backend) as tracker:
        backup = tracker.consumer("backup")
        assert [tracker.collect().epoch for _ in range(3)] == [0, 1, 2]
        assert backup.collect().epoch == 0
        assert (tracker.epoch, backup.epoch) == (3, 1)
