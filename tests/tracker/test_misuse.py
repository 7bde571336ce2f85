"""Every misuse is one clear sentence that names the mend, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import writewatch as ww
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.default import default_calls
from writewatch.kernel.hiding import hide
from writewatch.tracker.backend import RangeRefusedError


class Scene:
    """A table on pages of its own, and a tracker of it that needs nothing from the kernel."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.table = ww.allocate((100, page_size), "u1")
        self.start = self.table.ctypes.data
        self.tracker = ww.track(self.table, backend="every-page")

    def without(self, *names: str) -> Any:
        """The running kernel without some features."""
        return hide(default_calls(), frozenset(names))

    def track(self, backend: str, **options: Any) -> ww.Tracker:
        return ww.track(self.table, backend=backend, **options)

    def closed_tracker(self) -> ww.Tracker:
        self.tracker.close()
        return self.tracker

    def closed_consumer(self) -> ww.Consumer:
        consumer = self.tracker.consumer("backup")
        consumer.close()
        return consumer

    def read_only(self) -> Any:
        view = self.table[:]
        view.flags.writeable = False
        return view


@pytest.fixture
def scene(page_size: int) -> Any:
    built = Scene(page_size)
    yield built
    built.tracker.close()


class NotPermitted(LinuxCalls):
    """A security module that knows nothing of userfaultfd."""

    def userfaultfd(self, flags: int) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    userfaultfd_from_device = userfaultfd


@dataclass(frozen=True)
class Misuse:
    """What is done, what is raised, and what the sentence has to say."""

    name: str
    call: Callable[[Scene], object]
    error: type[Exception]
    words: tuple[str, ...]
    needs: tuple[str, ...] = field(default=())


NOWHERE = ww.AddrRange(0x10000, 0x20000)

MISUSES = [
    Misuse(
        "collect of a closed tracker",
        lambda s: s.closed_tracker().collect(),
        ww.TrackerClosedError,
        ("this tracker is closed", "track()"),
    ),
    Misuse(
        "is_clean of a closed tracker",
        lambda s: s.closed_tracker().is_clean(),
        ww.TrackerClosedError,
        ("this tracker is closed", "track()"),
    ),
    Misuse(
        "consumer of a closed tracker",
        lambda s: s.closed_tracker().consumer("backup"),
        ww.TrackerClosedError,
        ("this tracker is closed", "track()"),
    ),
    Misuse(
        "collect of a closed consumer",
        lambda s: s.closed_consumer().collect(),
        ww.TrackerClosedError,
        ("consumer", "closed", "new one"),
    ),
    Misuse(
        "is_clean of a closed consumer",
        lambda s: s.closed_consumer().is_clean(),
        ww.TrackerClosedError,
        ("consumer", "closed", "new one"),
    ),
    Misuse(
        "read-only buffer",
        lambda s: ww.track(s.read_only()),
        ww.UsageError,
        ("shape (100, ", "read-only", "pass a writable buffer"),
    ),
    Misuse(
        "no buffer at all",
        lambda s: ww.track("a string"),
        ww.UsageError,
        ("str shows no memory", "pass an array"),
    ),
    Misuse(
        "array of objects",
        lambda s: ww.track(np.array([{}])),
        ww.UsageError,
        ("holds references", "plain numbers"),
    ),
    Misuse(
        "allocating objects",
        lambda s: ww.allocate(3, object),
        ww.UsageError,
        ("object", "plain numbers"),
    ),
    Misuse(
        "unknown backend",
        lambda s: s.track("fastest"),
        ww.UsageError,
        ("'fastest'", "auto, uffd-wp, soft-dirty, content-hash, uffd-wp-sync, every-page"),
    ),
    Misuse(
        "pinned range outside of the buffers",
        lambda s: ww.track(s.table[:50], pinned=[s.table[60:]]),
        ww.UsageError,
        ("pinned: ndarray", "not part of a tracked buffer"),
    ),
    Misuse(
        "asking a set about what was not tracked",
        lambda s: s.tracker.collect().rows(bytearray(10)),
        ww.UsageError,
        ("bytearray of 10 bytes", "not wholly inside what was tracked", "pass a tracked buffer"),
    ),
    Misuse(
        "misspelt switch",
        lambda s: hide(default_calls(), __import__("writewatch").kernel.hiding.parse_hidden("wp_asink")),
        ww.UsageError,
        ("wp_asink", "cannot be hidden", "wp_async"),
    ),
    # ---- memory that a backend does not take ---------------------------------------------------
    Misuse(
        "no memory there, uffd-wp",
        lambda s: ww.track(NOWHERE, backend="uffd-wp"),
        RangeRefusedError,
        ("[0x10000, 0x20000)", "ordinary memory"),
        ("uffd_wp_async",),
    ),
    Misuse(
        "no memory there, uffd-wp-sync",
        lambda s: ww.track(NOWHERE, backend="uffd-wp-sync"),
        RangeRefusedError,
        ("[0x10000, 0x20000)",),
        ("uffd_wp_sync", "kernel_faults"),
    ),
    # ---- a kernel that lacks it ------------------------------------------------------------------
    *[
        Misuse(
            f"{backend} without {hidden}",
            lambda s, backend=backend, hidden=hidden: s.track(backend, calls=s.without(hidden)),  # type: ignore[misc]
            ww.KernelUnsupportedError,
            (backend, hidden, "WRITEWATCH_HIDE"),
            (there,),  # what is not there cannot be hidden
        )
        for backend, hidden, there in [
            ("uffd-wp", "userfaultfd", "uffd_wp_async"),
            ("uffd-wp", "wp_async", "uffd_wp_async"),
            ("uffd-wp", "pagemap", "uffd_wp_async"),
            ("uffd-wp", "pagemap_scan", "uffd_wp_async"),
            ("uffd-wp-sync", "userfaultfd", "uffd_wp_sync"),
            ("soft-dirty", "pagemap", "pagemap"),
        ]
    ],
    Misuse(
        "uffd-wp that is not permitted",
        lambda s: s.track("uffd-wp", calls=NotPermitted()),
        ww.KernelUnsupportedError,
        ("uffd-wp does not work here", "userfaultfd"),
    ),
    # ---- low level -------------------------------------------------------------------------------
    Misuse(
        "scan from mid-page",
        lambda s: ww.Pagemap().scan(s.start + 5, s.start + s.page_size),
        ww.UsageError,
        ("start", "multiple of the page size"),
        ("pagemap",),
    ),
    Misuse(
        "scan that ends before it starts",
        lambda s: ww.Pagemap().scan(s.start + s.page_size, s.start),
        ww.UsageError,
        ("after end",),
        ("pagemap",),
    ),
    Misuse(
        "entries that end before they start",
        lambda s: ww.Pagemap().entries(s.start + 2 * s.page_size, s.start),
        ww.UsageError,
        ("ends before it starts",),
        ("pagemap",),
    ),
]


def by_name(misuse: Misuse) -> str:
    return misuse.name


def assert_one_sentence(error: BaseException, words: tuple[str, ...]) -> None:
    text = str(error)
    assert "\n" not in text
    assert 20 < len(text) < 500, "neither a word nor an essay"
    for word in words:
        assert word in text


@pytest.mark.parametrize("misuse", MISUSES, ids=by_name)
def test_misuse_is_one_sentence_that_names_the_mend(
    misuse: Misuse, scene: Scene, needs: Callable[[str], None]
) -> None:
    for capability in misuse.needs:
        needs(capability)
    with pytest.raises(misuse.error) as caught:
        misuse.call(scene)
    assert_one_sentence(caught.value, misuse.words)


# ---- a userfaultfd, used wrongly -----------------------------------------------------------------

LOW: dict[str, tuple[Callable[[ww.Userfaultfd, int], object], tuple[str, ...]]] = {
    "register from mid-page": (
        lambda uffd, page: uffd.register(page + 1, page, wp=True),
        ("start 0x", "not a multiple of the page size", "round it down to"),
    ),
    "register half a page": (
        lambda uffd, page: uffd.register(page, page // 2, wp=True),
        ("length", "not a multiple of the page size", "round it up to"),
    ),
    "register nothing": (
        lambda uffd, page: uffd.register(page, 0, wp=True),
        ("length is 0", "at least one page"),
    ),
    "register without a mode": (
        lambda uffd, page: uffd.register(page, page),
        ("needs a mode", "wp=True"),
    ),
    "unregister from mid-page": (lambda uffd, page: uffd.unregister(page + 1, page), ("start 0x",)),
    "protect from mid-page": (lambda uffd, page: uffd.write_protect(page + 1, page), ("start 0x",)),
    "protect half a page": (lambda uffd, page: uffd.write_protect(page, page // 2), ("length",)),
    "an address of 65 bits": (
        lambda uffd, page: uffd.write_protect(1 << 64, page),
        ("does not fit in 64 bits",),
    ),
    "un-protect": (
        lambda uffd, page: uffd.write_protect(page, page, protect=False),
        ("marks the pages as written", "forge_written=True"),
    ),
}


@pytest.mark.kernel("wp_async")
@pytest.mark.parametrize(("call", "words"), LOW.values(), ids=LOW.keys())
def test_a_userfaultfd_says_what_is_wrong_with_a_range(
    call: Callable[[ww.Userfaultfd, int], object], words: tuple[str, ...], page_size: int
) -> None:
    with ww.Userfaultfd(UFFD_FEATURE_WP_ASYNC) as uffd, pytest.raises(ww.UsageError) as caught:
        call(uffd, page_size)
    assert_one_sentence(caught.value, words)


@pytest.mark.kernel("wp_async")
def test_a_closed_userfaultfd_says_so(page_size: int) -> None:
    uffd = ww.Userfaultfd(UFFD_FEATURE_WP_ASYNC)
    uffd.close()
    uffd.close()
    with pytest.raises(ww.UsageError, match="this Userfaultfd is closed; open another"):
        uffd.register(page_size, page_size, wp=True)


@pytest.mark.kernel("pagemap")
def test_a_closed_pagemap_says_so() -> None:
    pagemap = ww.Pagemap()
    pagemap.close()
    pagemap.close()
    for call in (pagemap.scan, pagemap.entries):
        with pytest.raises(ww.UsageError, match="this Pagemap is closed"):
            call(0, 4096)


# ---- memory of another userfaultfd ---------------------------------------------------------------


@pytest.mark.kernel("uffd_wp_async")
@pytest.mark.parametrize(
    ("backend", "capability"), [("uffd-wp", "uffd_wp_async"), ("uffd-wp-sync", "kernel_faults")]
)
def test_memory_of_another_userfaultfd_is_refused_by_name(
    scene: Scene, backend: str, capability: str, needs: Callable[[str], None]
) -> None:
    needs(capability)
    with ww.Userfaultfd(UFFD_FEATURE_WP_ASYNC) as other:
        other.register(scene.start, scene.table.nbytes, wp=True)
        with pytest.raises(RangeRefusedError) as caught:
            scene.track(backend)
        assert_one_sentence(caught.value, (f"[{scene.start:#x}, ", "registered with another userfaultfd"))
    scene.track(backend).close()


@pytest.mark.kernel("uffd_wp_async")
def test_memory_of_another_userfaultfd_is_tracked_by_the_next_backend_which_says_why(scene: Scene) -> None:
    with ww.Userfaultfd(UFFD_FEATURE_WP_ASYNC) as other:
        other.register(scene.start, scene.page_size, wp=True)
        with scene.track("auto") as tracker:
            assert tracker.backend != "uffd-wp"
            assert f"[{scene.start:#x}, " in tracker.reason
            assert "registered with another userfaultfd" in tracker.reason
            scene.table[7] = 1
            assert 7 in tracker.collect().pages(scene.table)


@pytest.mark.kernel("uffd_wp_async")
def test_a_neighbour_of_another_userfaultfd_does_not_matter(scene: Scene) -> None:
    """Gaps between many small buffers are tracked too, but only where that is allowed."""
    every_other = [scene.table[n] for n in range(0, 40, 2)]
    with ww.Userfaultfd(UFFD_FEATURE_WP_ASYNC) as other:
        other.register(scene.start + scene.page_size, scene.page_size, wp=True)
        with ww.track(*every_other, backend="uffd-wp") as tracker:
            scene.table[4] = 1
            assert tracker.collect().pages(every_other[2]).tolist() == [0]
