"""The points of the first patch's review, one test each. Numbers are those of docs/review.md."""

from __future__ import annotations

import errno
import os
import pathlib
import re

import numpy as np
import pytest

from tests.model.worlds import ASYNC, BASE, PRIVATE, SHARED, Area
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.model import pte as p
from writewatch.model.machine import Settings
from writewatch.model.signals import WouldBlock

MISSING = uf.UFFDIO_REGISTER_MODE_MISSING
HUGETLB = PRIVATE | mman.MAP_HUGETLB


def thp(n_huge: int = 1) -> Area:
    area = Area(512 * n_huge)
    area.calls.madvise(BASE, 512 * n_huge * area.page, mman.MADV_HUGEPAGE)
    area.fill()
    return area


def test_1_the_mode_is_a_feature_that_is_asked_for_in_the_handshake() -> None:
    area = Area()
    area.armed(ASYNC)
    area.store(0)
    assert area.written() == [0]


def test_2_the_mode_cannot_be_changed_after_the_handshake() -> None:
    area = Area()
    fd = area.context(0)
    with pytest.raises(OSError, match="UFFDIO_API") as refused:
        area.calls.uffdio(fd, uf.UFFDIO_API, uf.UffdioApi(uf.UFFD_API, ASYNC, 0))
    assert refused.value.errno == errno.EINVAL
    area.register(fd)
    area.fill()
    area.protect(fd)
    with pytest.raises(WouldBlock):
        area.store(0)


def test_3_without_the_wp_mode_the_feature_has_no_effect() -> None:
    area = Area()
    fd = area.context(ASYNC)
    area.register(fd, MISSING)
    with pytest.raises(WouldBlock):
        area.store(3)
    assert area.messages(fd) == [(uf.UFFD_EVENT_PAGEFAULT, uf.UFFD_PAGEFAULT_FLAG_WRITE, area.at(3))]


def test_4_unprotecting_is_accepted_as_linux_does_and_forges_written() -> None:
    area = Area()
    fd = area.armed()
    area.protect(fd, 2, 4, mode=0)
    assert area.written() == [2, 3]


def test_4_unprotecting_is_refused_under_the_strict_rule_that_the_review_asked_for() -> None:
    area = Area(settings=Settings(strict=True))
    fd = area.armed()
    with pytest.raises(OSError, match="UFFDIO_WRITEPROTECT") as refused:
        area.protect(fd, 2, 4, mode=0)
    assert refused.value.errno == errno.EINVAL
    assert area.written() == []


def test_4_the_strict_rule_leaves_synchronous_contexts_alone() -> None:
    area = Area(settings=Settings(strict=True))
    area.fill()
    fd = area.armed(0)
    area.protect(fd, mode=0)
    assert area.written() == list(range(8))


def test_5_all_ranges_of_a_context_share_its_mode_and_both_kinds_live_side_by_side() -> None:
    area = Area()
    area.fill()
    asynchronous, synchronous = area.context(ASYNC), area.context(0)
    area.register(asynchronous, first=0, last=4)
    area.register(synchronous, first=4, last=8)
    area.protect(asynchronous, 0, 4)
    area.protect(synchronous, 4, 8)
    area.store(1)
    with pytest.raises(WouldBlock):
        area.store(5)
    assert not area.entry(1) & p.UFFD_WP
    assert area.entry(5) & p.UFFD_WP


def test_6_protecting_is_the_same_call_in_both_modes() -> None:
    for features in (ASYNC, 0):
        area = Area()
        area.fill()
        area.armed(features)
        assert all(area.entry(page) & p.UFFD_WP for page in range(8))


def test_7_an_asynchronous_fault_never_reaches_the_queue() -> None:
    area = Area()
    fd = area.armed()
    area.fill()
    with pytest.raises(OSError, match="read") as empty:
        area.messages(fd)
    assert empty.value.errno == errno.EAGAIN
    assert area.calls.machine.counters.events["message"] == 0


@pytest.mark.parametrize("features", [ASYNC, ASYNC | uf.UFFD_FEATURE_SIGBUS])
def test_7_sigbus_and_user_mode_only_do_not_matter(features: int) -> None:
    area = Area()
    fd = area.context(features, flags=uf.UFFD_USER_MODE_ONLY | os.O_NONBLOCK)
    area.register(fd)
    area.protect(fd)
    area.calls.copy_to_user(area.at(2), b"x")
    area.store(3)
    assert area.written() == [2, 3]


def test_8_a_present_page_takes_one_fault_and_the_mmap_lock_is_not_taken() -> None:
    area = Area()
    area.fill()
    area.armed()
    before, locks = area.calls.completed_faults(), area.calls.machine.counters.locks.copy()
    area.store(0)
    assert area.calls.completed_faults() - before == 1
    assert area.calls.machine.counters.locks - locks == {("vma", "read"): 1, ("pte", "lock"): 1}


def test_8_a_marker_takes_two_faults() -> None:
    area = Area()
    area.armed()
    before = area.calls.completed_faults()
    area.store(0)
    assert area.calls.completed_faults() - before == 2


def test_9_one_entry_is_resolved_and_no_tlb_is_flushed() -> None:
    area = Area()
    area.fill()
    area.armed()
    before = area.calls.machine.counters.flushes
    area.store(3)
    assert [page for page in range(8) if not area.entry(page) & p.UFFD_WP] == [3]
    assert area.calls.machine.counters.flushes == before


@pytest.mark.parametrize("flags", [PRIVATE, SHARED])
def test_10_a_huge_page_is_protected_and_a_write_reports_only_what_it_must(flags: int) -> None:
    area = Area(512, flags)
    area.calls.madvise(BASE, 512 * area.page, mman.MADV_HUGEPAGE)
    area.fill()
    area.armed()
    area.store(100)
    assert area.written() == [100]


def test_11_the_hint_for_huge_pages_is_not_looked_at() -> None:
    area = Area(512)
    area.fill()
    area.calls.madvise(BASE, 512 * area.page, mman.MADV_HUGEPAGE)
    area.armed()
    area.store(7)
    assert area.written() == [7]
    assert area.calls.machine.counters.events["thp_split_pmd"] == 0


def test_12_an_asynchronous_write_splits_the_huge_page_before_it_resolves() -> None:
    area = thp()
    area.armed()
    assert area.entry(0) & p.HUGE
    area.store(5)
    assert area.calls.machine.counters.events["thp_split_pmd"] == 1
    assert [page for page in range(512) if not area.entry(page) & p.UFFD_WP] == [5]


def test_12_a_synchronous_write_reports_the_small_page_and_leaves_the_huge_one_whole() -> None:
    area = thp()
    fd = area.armed(0)
    with pytest.raises(WouldBlock):
        area.store(5)
    assert area.messages(fd) == [(uf.UFFD_EVENT_PAGEFAULT, 3, area.at(5))]
    assert area.calls.machine.counters.events["thp_split_pmd"] == 0
    area.protect(fd, 5, 6, mode=0)
    assert area.calls.machine.counters.events["thp_split_pmd"] == 1


def test_13_hugetlb_is_resolved_whole() -> None:
    area = Area(1024, HUGETLB)
    area.fill()
    area.armed()
    area.store(600)
    assert area.written() == list(range(512, 1024))


def test_14_soft_dirty_is_another_bit() -> None:
    area = Area(settings=Settings(soft_dirty=True))
    area.fill()
    area.armed()
    area.calls.clear_refs(None, 4)
    area.store(2)
    entries = area.calls.read_pagemap(area.pagemap, BASE // area.page, 8)
    assert np.flatnonzero(entries & np.uint64(1 << 55)).tolist() == [2]
    assert np.flatnonzero(entries & np.uint64(1 << 57) == 0).tolist() == [2]
    area.collect()
    entries = area.calls.read_pagemap(area.pagemap, BASE // area.page, 8)
    assert np.flatnonzero(entries & np.uint64(1 << 55)).tolist() == [2]


# ---- the document --------------------------------------------------------------------------------

_ROOT = pathlib.Path(__file__).parents[2]


def test_every_test_that_the_document_cites_exists() -> None:
    cited = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (_ROOT / "docs/review.md").read_text(encoding="utf-8"))
    missing = [
        name for path, name in cited if f"def {name}(" not in (_ROOT / path).read_text(encoding="utf-8")
    ]
    assert cited
    assert missing == []


def test_every_test_of_a_point_is_cited_under_its_number() -> None:
    text = (_ROOT / "docs/review.md").read_text(encoding="utf-8")
    points = dict(re.findall(r"^## (\d+)\. [^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    own = re.findall(
        r"^def (test_(\d+)_\w+)", pathlib.Path(__file__).read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(points, key=int) == [str(number) for number in range(1, 15)]
    assert [name for name, number in own if f"::{name}`" not in points[number]] == []
