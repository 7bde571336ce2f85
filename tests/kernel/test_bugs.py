"""Which releases have which bug, and which release a distribution's kernel really is."""

from __future__ import annotations

import os

import pytest

from writewatch.kernel.bugs import (
    DIRTY_BITS_LOST,
    HUGETLB_HOLE_DEADLOCK,
    SOFT_DIRTY_LOST,
    UNREGISTER_TWICE,
    VECLESS_PANIC,
    KernelBug,
    Release,
    parse_release,
    running_release,
)


@pytest.mark.parametrize(
    ("bug", "release", "affected"),
    [
        (DIRTY_BITS_LOST, (6, 1, 192), False),
        (DIRTY_BITS_LOST, (6, 6, 99), False),
        (DIRTY_BITS_LOST, (6, 7, 0), True),
        (DIRTY_BITS_LOST, (6, 7, 12), True),
        (DIRTY_BITS_LOST, (6, 8, 9), True),
        (DIRTY_BITS_LOST, (6, 8, 10), False),
        (DIRTY_BITS_LOST, (6, 9, 0), False),
        (DIRTY_BITS_LOST, (6, 18, 44), False),
        # The ioctl may have been carried into any older release.
        (VECLESS_PANIC, (5, 14, 0), True),
        (VECLESS_PANIC, (6, 12, 56), True),
        (VECLESS_PANIC, (6, 12, 57), False),
        (VECLESS_PANIC, (6, 13, 0), True),
        (VECLESS_PANIC, (6, 17, 13), True),
        (VECLESS_PANIC, (6, 18, 0), False),
        (HUGETLB_HOLE_DEADLOCK, (6, 12, 99), True),
        (HUGETLB_HOLE_DEADLOCK, (6, 12, 117), False),
        (HUGETLB_HOLE_DEADLOCK, (6, 18, 44), False),
        (HUGETLB_HOLE_DEADLOCK, (6, 18, 20), True),
        (UNREGISTER_TWICE, (6, 8, 12), False),
        (UNREGISTER_TWICE, (6, 12, 117), True),
        (UNREGISTER_TWICE, (6, 16, 3), True),
        (UNREGISTER_TWICE, (6, 18, 44), False),
        (SOFT_DIRTY_LOST, (6, 1, 192), False),
        (SOFT_DIRTY_LOST, (6, 12, 40), True),
        (SOFT_DIRTY_LOST, (6, 12, 117), False),
    ],
)
def test_releases_with_a_bug(bug: KernelBug, release: Release, affected: bool) -> None:
    assert bug.affects(release) is affected


def test_a_release_that_nobody_can_place_may_panic() -> None:
    assert VECLESS_PANIC.affects(parse_release("custom"))


def test_the_mend_names_the_releases() -> None:
    assert DIRTY_BITS_LOST.mend() == "use Linux 6.8.10, 6.9 or newer"
    assert HUGETLB_HOLE_DEADLOCK.mend() == "use Linux 6.12.100, 6.18.44, 7.2 or newer"


@pytest.mark.parametrize(
    ("release", "version", "signature", "upstream"),
    [
        ("6.18.44", "#1 SMP PREEMPT_DYNAMIC", "", (6, 18, 44)),
        ("6.12.117+deb12-amd64", "#1 SMP Debian 6.12.117-1~bpo12+1 (2026-08-01)", "", (6, 12, 117)),
        ("6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-08-01)", "", (6, 1, 192)),
        ("6.8.0-45-generic", "#45-Ubuntu SMP", "Ubuntu 6.8.0-45.45-generic 6.8.12\n", (6, 8, 12)),
        ("6.19-rc3", "#1", "", (6, 19, 0)),
        ("5.15.167.4-microsoft-standard-WSL2", "#1 SMP", "", (5, 15, 167)),
        ("4.4.0", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "", (4, 4, 0)),
        ("unheard-of", "", "", (0, 0, 0)),
    ],
)
def test_upstream_release_of_what_distributions_print(
    release: str, version: str, signature: str, upstream: Release
) -> None:
    assert parse_release(release, version, signature) == upstream


def test_the_running_release_begins_like_uname() -> None:
    major, minor, _ = running_release()
    assert os.uname().release.startswith(f"{major}.{minor}")
