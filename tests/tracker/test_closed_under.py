"""A program that closes descriptors which are not its own: ``os.closerange()``, as daemons do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import writewatch as ww


@pytest.fixture
def table(page_size: int) -> np.ndarray[Any, Any]:
    return ww.allocate((8, page_size), "u1")


def descriptors(tracker: ww.Tracker) -> list[int]:
    """Of a tracker and its backend."""
    backend: Any = tracker._chosen.ledger.backend
    found = [tracker._blind._status]
    if hasattr(backend, "_pagemap"):
        found.append(backend._pagemap.fileno())
    if hasattr(backend, "_uffd"):
        found.append(backend._uffd.fileno())
    if hasattr(backend, "_helper"):
        found.append(backend._helper._socket.fileno())
    return found


def a_socket() -> int:
    return socket.socket().detach()


FOREIGN: dict[str, Callable[[], int]] = {
    "a file": lambda: os.open("/dev/null", os.O_RDWR),
    "a socket": a_socket,
    "a pagemap": lambda: os.open("/proc/self/pagemap", os.O_RDONLY),
    "another's status": lambda: os.open("/proc/1/status", os.O_RDONLY),
}


@pytest.fixture(params=list(FOREIGN.values()), ids=list(FOREIGN))
def foreign(request: pytest.FixtureRequest) -> Iterator[int]:
    fd: int = request.param()
    yield fd
    os.close(fd)


def refuses(backend: str) -> bool:
    return backend in {"uffd-wp", "uffd-wp-sync", "soft-dirty"}


def test_a_tracker_whose_descriptors_became_other_files_says_so_and_leaves_them_alone(
    backend: str, table: np.ndarray[Any, Any], foreign: int
) -> None:
    tracker = ww.track(table, backend=backend)
    numbers = descriptors(tracker)
    for number in numbers:
        os.dup2(foreign, number)
    if refuses(backend):
        for operation in (tracker.is_clean, tracker.collect, tracker.collect):
            with pytest.raises(ww.TrackingLostError, match=r"was closed by the program.*make a new one"):
                operation()
    else:
        table[3] = 1
        assert 3 in tracker.collect().pages(table)
    tracker.close()
    for number in numbers:
        same = os.path.samestat(os.fstat(number), os.fstat(foreign))
        assert same or not refuses(backend), "a foreign descriptor was closed"
        os.close(number)


def test_memory_is_tracked_anew_after_all_was_closed(backend: str, table: np.ndarray[Any, Any]) -> None:
    tracker = ww.track(table, backend=backend)
    for number in descriptors(tracker):
        os.close(number)
    tracker.close()
    with ww.track(table, backend=backend) as again:
        table[5] = 1
        assert 5 in again.collect().pages(table)
        assert again.is_clean() or backend == "every-page"


@pytest.mark.kernel("uffd_wp_async")
def test_a_userfaultfd_that_alone_was_closed_is_missed_at_the_next_collect(
    table: np.ndarray[Any, Any], foreign: int
) -> None:
    tracker = ww.track(table, backend="uffd-wp")
    _, _, number = descriptors(tracker)
    os.dup2(foreign, number)
    with pytest.raises(ww.TrackingLostError, match="make a new one"):
        tracker.collect()
    tracker.close()
    assert os.path.samestat(os.fstat(number), os.fstat(foreign))
    os.close(number)


@pytest.mark.kernel("uffd_wp_async")
def test_a_userfaultfd_in_the_place_of_another_is_not_registered_with(table: np.ndarray[Any, Any]) -> None:
    tracker = ww.track(table, backend="uffd-wp")
    _, _, number = descriptors(tracker)
    with ww.Userfaultfd() as other:
        os.dup2(other.fileno(), number)
        with pytest.raises(ww.TrackingLostError):
            tracker.collect()
        tracker.close()
        other.register(table.ctypes.data, table.nbytes, wp=True)  # refused, were it registered elsewhere
        os.close(number)
