"""The conversation of uffd-wp-sync with its helper process, when it is interrupted and when it ends."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import writewatch as ww
from writewatch.kernel.default import default_calls
from writewatch.pages import no_runs
from writewatch.tracker import uffd_sync
from writewatch.tracker.uffd_sync import HelperGoneError, UffdSync

pytestmark = pytest.mark.kernel("uffd_wp_sync", "kernel_faults")


@pytest.fixture
def table(page_size: int) -> Any:
    return ww.allocate((10, page_size), "u1")


@pytest.fixture
def tracker(table: Any) -> Iterator[ww.Tracker]:
    with ww.track(table, backend="uffd-wp-sync") as made:
        yield made


def helper_of(tracker: ww.Tracker) -> Any:
    backend: Any = tracker._chosen.ledger.backend
    return backend._helper


def interrupted_after_asking(helper: Any, error: BaseException) -> None:
    """The next request is sent; then a signal handler raises while its answer is awaited."""
    hear = helper._hear

    def once(length: int) -> bytes:
        helper._hear = hear
        raise error

    helper._hear = once


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TimeoutError("too late")], ids=repr)
def test_an_answer_that_was_not_awaited_is_not_taken_for_the_next(
    tracker: ww.Tracker, table: Any, error: BaseException
) -> None:
    helper = helper_of(tracker)
    table[5] = 1
    interrupted_after_asking(helper, error)
    with pytest.raises(type(error)):
        tracker.collect()
    assert 5 in tracker.collect().pages(table)
    for page in range(10):
        table[page] = 2
        assert tracker.collect().pages(table).tolist() == [page]
    assert helper_of(tracker) is helper, "it was started anew without need"
    with pytest.raises(BlockingIOError):  # nothing is left to be heard
        helper._socket.recv(1, socket.MSG_DONTWAIT)


def test_a_request_of_many_ranges_is_answered_range_by_range(page_size: int) -> None:
    n_pages = 5000
    table = ww.allocate((n_pages, page_size), "u1")
    with ww.track(table, backend="uffd-wp-sync") as tracker:
        table[::2, 0] = 1
        assert tracker.collect().n_pages == n_pages // 2
        assert tracker.is_clean()
        table[4000, 0] = 2
        assert tracker.collect().pages(table).tolist() == [4000]


def test_one_range_that_is_refused_does_not_disturb_the_others(tracker: ww.Tracker, table: Any) -> None:
    page = tracker.page_size
    start = table.ctypes.data
    codes = helper_of(tracker).ask(b"P", [(start, page), (0x10000, page), (start + page, page)])
    assert [bool(code) for code in codes] == [False, True, False]


@pytest.fixture
def dying() -> Callable[[ww.Tracker], None]:
    """End the helper of a tracker, as somebody would from outside."""

    def die(tracker: ww.Tracker) -> None:
        # It alone has the other end of this socket open.
        helper_of(tracker)._socket.shutdown(socket.SHUT_WR)
        while helper_of(tracker)._socket.recv(1):
            pass

    return die


def test_when_the_helper_dies_everything_is_reported_once(
    tracker: ww.Tracker, table: Any, dying: Callable[[ww.Tracker], None]
) -> None:
    table[5] = 1
    dying(tracker)
    table[6] = 1  # waits until Linux has closed the descriptor, lifted every protection and woken everybody
    with pytest.warns(ww.TrackingLostWarning, match="had died"):
        dirty = tracker.collect()
    assert {5, 6} <= set(dirty.pages(table).tolist())
    assert not dirty.exact
    assert tracker.is_clean()
    table[7] = 1
    assert tracker.collect().pages(table).tolist() == [7]


def test_what_was_written_without_a_helper_is_not_lost_to_a_tracker_that_is_made_next(
    tracker: ww.Tracker, table: Any, dying: Callable[[ww.Tracker], None]
) -> None:
    """The new tracker starts another helper, and with it all that is tracked is protected again."""
    tracker.collect()
    dying(tracker)
    table[6] = 1
    with ww.track(ww.allocate(8, "u1"), backend="uffd-wp-sync") as other:
        assert not tracker.is_clean()
        with pytest.warns(ww.TrackingLostWarning, match="had died"):
            assert 6 in tracker.collect().pages(table)
        assert tracker.is_clean()
        assert other.is_clean()


def test_when_the_helper_dies_each_tracker_is_told_for_itself(
    tracker: ww.Tracker, table: Any, page_size: int, dying: Callable[[ww.Tracker], None]
) -> None:
    second = ww.allocate((10, page_size), "u1")
    with ww.track(second, backend="uffd-wp-sync") as other:
        other.collect()
        dying(tracker)
        second[3] = 1
        with pytest.warns(ww.TrackingLostWarning, match="had died"):
            tracker.collect()
        assert not other.is_clean()
        assert 3 in other.collect().pages(second)
        assert other.is_clean()
        assert tracker.is_clean()


def test_that_the_helper_died_is_noticed_where_linux_leaves_the_pages_protected(
    tracker: ww.Tracker, table: Any, dying: Callable[[ww.Tracker], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does before v6.9: no entry tells, and no write clears a bit."""
    tracker.collect()
    dying(tracker)
    monkeypatch.setattr(UffdSync, "_unprotected", lambda self, runs: no_runs())
    table[6] = 1
    assert not tracker.is_clean()
    with pytest.warns(ww.TrackingLostWarning, match="had died"):
        assert 6 in tracker.collect().pages(table)


def test_a_helper_that_could_not_be_started_again_is_started_by_the_next_collect(
    tracker: ww.Tracker, table: Any, dying: Callable[[ww.Tracker], None]
) -> None:
    def refuse(*_: object) -> None:
        raise HelperGoneError

    tracker.collect()
    dying(tracker)
    table[6] = 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uffd_sync, "_Helper", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="could not be started again"):
                tracker.collect()
    assert not tracker.is_clean()
    with pytest.warns(ww.TrackingLostWarning, match="had died"):
        assert 6 in tracker.collect().pages(table)
    table[7] = 1
    assert tracker.collect().pages(table).tolist() == [7]


def test_the_helper_is_nobodys_child(table: Any) -> None:
    """A program may wait for all of its children."""
    before = children()
    with ww.track(table, backend="uffd-wp-sync"):
        assert children() == before


def children() -> set[str]:
    found: set[str] = set()
    for task in pathlib.Path("/proc/self/task").iterdir():
        with contextlib.suppress(
            FileNotFoundError, ProcessLookupError
        ):  # a thread of another test that ends just now
            found.update((task / "children").read_text().split())
    return found


def test_the_helper_ends_with_the_last_tracker() -> None:
    backend = UffdSync(default_calls())
    helper: Any = backend._helper
    backend.close()
    backend.close()
    assert helper._socket.fileno() == -1
    with pytest.raises(HelperGoneError):
        helper.ask(b"P", [(0, 4096)])


class OwnerThatDies:
    """A helper that is started by hand: what it prints is known when it has ended."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pipe = os.pipe()  # stands for the userfaultfd; nothing ever comes from it
        socket.send_fds(self.socket, [b"."], [self._pipe[0]])
        self._theirs = theirs

    def start(self) -> None:
        number = str(self._theirs.fileno())
        command = [sys.executable, "-I", "-S", str(uffd_sync._HELPER), number, "0", "0", "0", "0", "4096"]
        self._process = subprocess.Popen(command, pass_fds=[int(number)], stderr=subprocess.PIPE)
        self._theirs.close()

    def printed(self) -> bytes:
        """All that the helper prints until its end: its forked half holds the pipe open until then."""
        _, errors = self._process.communicate(timeout=30)
        self.socket.close()
        for fd in self._pipe:
            os.close(fd)
        assert isinstance(errors, bytes)
        return errors


def test_a_helper_whose_owner_died_before_it_began_ends_quietly() -> None:
    owner = OwnerThatDies()
    owner.socket.close()
    owner.start()
    assert owner.printed() == b""


def test_a_helper_whose_owner_dies_while_it_answers_ends_quietly() -> None:
    owner = OwnerThatDies()
    owner.start()
    assert owner.socket.recv(100) == bytes(8)
    owner.socket.shutdown(socket.SHUT_RD)  # the answer meets a broken pipe, as when the owner was killed
    owner.socket.send(b"P" + bytes(8))
    assert owner.printed() == b""
