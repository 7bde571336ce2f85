"""Ctrl-C at every point where Python may deliver it inside an operation: no page is lost.

Python runs signal handlers when a function is entered and when a function written in C has returned. A profiler
is told of just these points; one that raises stands for a handler that does.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import writewatch as ww

SOURCE = os.path.dirname(ww.__file__) + os.sep
#: One point in so many: most points are those of the ledger, which are the same for every backend.
STRIDES = {"uffd-wp": 1, "soft-dirty": 3, "content-hash": 3, "uffd-wp-sync": 11, "every-page": 7}
#: In a guest whose processor is emulated everything takes 20 times as long.
IS_EMULATED = os.environ.get("HYPOTHESIS_PROFILE") == "emulated"
if IS_EMULATED:
    STRIDES = {backend: 23 * stride for backend, stride in STRIDES.items()}

# A range whose unregistering was interrupted is reported wholly, with this warning.
# An interrupt between open() and its block leaves a file to the destructor, which closes it and warns.
pytestmark = [
    pytest.mark.filterwarnings("ignore::writewatch.TrackingLostWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]


class Interrupt:
    """Raises KeyboardInterrupt at the n-th point within the library, or within some of its files."""

    def __init__(self, n: int, files: tuple[str, ...] = (SOURCE,)) -> None:
        self._remaining = n
        self._files = files
        self.struck = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event in {"call", "c_return"} and frame.f_code.co_filename.startswith(self._files):
            self._remaining -= 1
            if self._remaining < 0 and not self.struck:
                self.struck = True
                raise KeyboardInterrupt

    def __enter__(self) -> Interrupt:
        self._before = sys.getprofile()
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)


class Scene:
    """Two trackers that overlap and a second consumer, each owed page 15."""

    def __init__(self, backend: str, page_size: int) -> None:
        self.backend = backend
        self.table = ww.allocate((40, page_size), "u1")
        self.tracker = ww.track(self.table[:20], self.table[24:], backend=backend)
        self.other = ww.track(self.table[10:30], backend=backend)
        self.consumer = self.tracker.consumer("backup")
        self.table[15] = 1

    def owed(self, *takers: Any) -> list[bool]:
        """Whether each taker is told of the page, now or by its next collect."""
        at = self.table.ctypes.data + 15 * self.tracker.page_size
        return [at in taker.collect() for taker in takers]

    def close(self) -> None:
        self.tracker.close()
        self.other.close()


def scenes(
    backend: str, page_size: int, operation: Callable[[Scene], object], *, stride: int = 1
) -> Iterator[Scene]:
    """The scene after the operation was interrupted at its first point, at its second, …"""
    for n in range(0, 100_000, stride * STRIDES[backend]):
        scene = Scene(backend, page_size)
        try:
            with Interrupt(n) as interrupt:
                operation(scene)
        except KeyboardInterrupt:
            yield scene
        finally:
            scene.close()
        if not interrupt.struck:
            return


def test_a_collect_that_is_interrupted_anywhere_loses_no_page(backend: str, page_size: int) -> None:
    n_points = 0
    for scene in scenes(backend, page_size, lambda scene: scene.tracker.collect()):
        assert scene.owed(scene.tracker, scene.consumer, scene.other) == [True, True, True]
        n_points += 1
    assert n_points > (1 if IS_EMULATED else 10)


def test_pages_may_be_given_back_again_when_that_was_interrupted(backend: str, page_size: int) -> None:
    sets: list[ww.DirtySet] = []

    def give_back(scene: Scene) -> None:
        sets[-1].give_back()

    for n in range(1000):
        scene = Scene(backend, page_size)
        sets.append(scene.tracker.collect())
        with Interrupt(n * STRIDES[backend]) as interrupt:
            try:
                give_back(scene)
            except KeyboardInterrupt:
                sys.setprofile(None)
                give_back(scene)
        assert scene.owed(scene.tracker) == [True]
        scene.close()
        if not interrupt.struck:
            return


@pytest.mark.parametrize(
    "operation",
    [
        lambda scene: scene.tracker.consumer("another"),
        lambda scene: scene.consumer.close(),
        lambda scene: scene.other.close(),
        lambda scene: scene.tracker.is_clean(),
    ],
    ids=["new consumer", "consumer closed", "other tracker closed", "is_clean"],
)
def test_an_operation_that_is_interrupted_anywhere_costs_the_tracker_no_page(
    backend: str, page_size: int, operation: Callable[[Scene], object]
) -> None:
    for scene in scenes(backend, page_size, operation, stride=5):
        assert scene.owed(scene.tracker) == [True]


# The point may be one in a destructor, whose errors Python only prints.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tracker_that_could_not_be_made_costs_the_others_no_page(backend: str, page_size: int) -> None:
    def track(scene: Scene) -> None:
        ww.track(scene.table[5:36], backend=scene.backend).close()

    for scene in scenes(backend, page_size, track, stride=41):
        assert scene.owed(scene.tracker, scene.other) == [True, True]


#: Where descriptors are opened, handed on and closed. (Most other points are in the parsing of /proc/self/maps.)
HANDLES_DESCRIPTORS = tuple(
    SOURCE + name
    for name in (
        "kernel/calls.py",
        "kernel/descriptor.py",
        "kernel/libc.py",
        "kernel/opening.py",
        "kernel/owning.py",
        "kernel/pagemap.py",
        "tracker/api.py",
        "tracker/blindness.py",
        "tracker/content_hash.py",
        "tracker/gate.py",
        "tracker/ledger.py",
        "tracker/soft_dirty.py",
        "tracker/uffd_sync.py",
        "tracker/uffd_wp.py",
    )
)


def descriptors() -> set[tuple[int, str]]:
    """Every open descriptor and what it leads to."""
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:  # it was the listing's own
            continue
    return found


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what was half made is closed, with a warning
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # … by a __del__ that is struck
def test_a_tracker_that_is_interrupted_anywhere_leaves_no_descriptor(backend: str, page_size: int) -> None:
    table = ww.allocate((4, page_size), "u1")

    def use(made: list[ww.Tracker]) -> None:
        made.append(ww.track(table, backend=backend))
        made[0].collect()
        made[0].close()

    use([])
    for n in range(0, 100_000, STRIDES[backend]):
        before, made = descriptors(), list[ww.Tracker]()
        try:
            with Interrupt(n, HANDLES_DESCRIPTORS) as interrupt:
                use(made)
        except KeyboardInterrupt as error:
            error.__traceback__ = None  # whose frames hold what was half made
        for tracker in made:
            tracker.close()
        if descriptors() != before:
            gc.collect()
        assert descriptors() == before, f"left open when it was interrupted at point {n}"
        if not interrupt.struck:
            return
