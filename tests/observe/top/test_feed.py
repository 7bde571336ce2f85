"""News from a tracker in a thread, on trackers that were made up."""

from __future__ import annotations

import queue

import pytest

from tests.observe.watch.made_up import MadeUpTracker, epoch, mapping
from writewatch.errors import AttachError, TrackingLostError
from writewatch.observe.top.facts import Member
from writewatch.observe.top.feed import Feed, News

HEAP = mapping("[heap]", 100, 200, "heap")


class QuickTracker(MadeUpTracker):
    """For it time does not pass."""

    def wait(self, timeout_s: float) -> bool:
        return super().wait(timeout_s) if len(self._epochs) <= 1 else False


def collected(tracker: MadeUpTracker) -> tuple[list[News], str]:
    told: queue.SimpleQueue[News | str] = queue.SimpleQueue()
    feed = Feed(tracker, 0.001)
    feed.start(told.put, told.put)
    news = []
    while not isinstance(one := told.get(timeout=20), str):
        news.append(one)
    feed.stop()
    return news, one


def epochs(n: int, pid: int = 4711) -> list:  # type: ignore[type-arg]
    return [epoch(number, [HEAP], (100, 110), pid=pid) for number in range(n)]


def test_it_tells_every_round_and_the_end() -> None:
    child = QuickTracker(epochs(5, pid=4712), pid=4712)
    news, sentence = collected(QuickTracker(epochs(3), children=(child,)))
    assert [[writes.pid for writes in one.round] for one in news] == [[4711, 4712]] * 3
    assert sentence == "redis-server (4711) has ended."
    assert news[0].members == (Member(4711, 0, "redis-server", True), Member(4712, 1, "redis-server", True))
    assert news[0].facts.cost_share == 0.02


@pytest.mark.parametrize("error", [AttachError("it is gone", 4711), OSError(5, "Input/output error")])
def test_a_failure_is_a_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = QuickTracker(epochs(3))

    def fail() -> None:
        raise error

    monkeypatch.setattr(tracker, "collect", fail)
    news, sentence = collected(tracker)
    assert news == []
    assert sentence == f"Watching redis-server (4711) failed: {error}."


def test_an_error_of_our_own_ends_the_picture_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = QuickTracker(epochs(3))
    monkeypatch.setattr(tracker, "collect", lambda: 1 // 0)
    told: queue.SimpleQueue[object] = queue.SimpleQueue()
    feed = Feed(tracker, 0.001)
    feed.start(told.put, told.put)
    assert str(told.get(timeout=20)).startswith("Watching redis-server (4711) failed: ZeroDivisionError(")
    feed.stop()
    assert isinstance(feed.error, ZeroDivisionError)


def test_another_program_that_is_not_followed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = QuickTracker(epochs(3))

    def replaced() -> None:
        tracker.state = "replaced"
        raise TrackingLostError("exec")

    monkeypatch.setattr(tracker, "collect", replaced)
    _, sentence = collected(tracker)
    assert sentence == "redis-server (4711) has become another program by exec."


def test_stopping_does_not_wait_for_the_interval() -> None:
    class Endless(MadeUpTracker):
        def wait(self, timeout_s: float) -> bool:
            return False

    feed = Feed(Endless(epochs(3)), 1e6)
    told: list[object] = []
    feed.start(told.append, told.append)
    feed.stop()
    assert told == []
