"""Section 3: UFFDIO_WRITEPROTECT, its errors and its effect on each kind of entry."""

from __future__ import annotations

import errno

import pytest

from tests.conformance import kinds
from tests.conformance.actions import ASYNC, MISSING, RW, WP, Area, Place, raises
from tests.conformance.kinds import Maker
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

WP_UNPOPULATED = uf.UFFD_FEATURE_WP_UNPOPULATED


@pytest.mark.parametrize("mode", [4, 5, 1 << 40])
def test_unknown_mode_is_einval(place: Place, mode: int) -> None:
    area = place.map(1)
    context = place.armed(area)
    with raises(errno.EINVAL):
        context.protect(area, mode)


def test_protecting_without_waking_makes_no_sense_and_is_einval(place: Place) -> None:
    area = place.map(1)
    with raises(errno.EINVAL):
        place.armed(area).protect(area, 3)


@pytest.mark.parametrize(("shift", "length"), [(0, 0), (1, 0x1000), (0, 0x1001), (0, -0x1000)])
def test_bad_range_is_einval(place: Place, shift: int, length: int) -> None:
    area = place.map(2)
    context = place.armed(area)
    with raises(errno.EINVAL):
        context.protect(Area(place, area.start + shift, length & (1 << 64) - 1))


def test_dead_mm_is_esrch(place: Place) -> None:
    area = place.map(1)
    child = place.world.fork()
    context = place.elsewhere(area, child).place.asynchronous()
    context.register(area)
    context.fd = child.send_descriptor(context.fd, place.world)
    child.exit()
    context.place = place
    with raises(errno.ESRCH):
        context.protect(area)


def test_range_without_a_mapping_is_enoent(place: Place) -> None:
    area, context = place.map(1), place.asynchronous()
    area.unmap()
    with raises(errno.ENOENT):
        context.protect(area)


@pytest.mark.parametrize("mode", [None, MISSING])
def test_vma_not_registered_for_wp_is_enoent(place: Place, mode: int | None) -> None:
    area, context = place.map(1), place.asynchronous()
    if mode is not None:
        context.register(area, mode)
    with raises(errno.ENOENT):
        context.protect(area)


def test_earlier_vmas_stay_protected_when_a_later_one_is_enoent(place: Place) -> None:
    area, context = place.map(4), place.asynchronous()
    area.fill()
    context.register(area.part(0, 2))
    with raises(errno.ENOENT):
        context.protect(area)
    assert area.states() == ["AP", "AP", "WP", "WP"]


def test_holes_are_skipped(place: Place) -> None:
    area, context = place.map(3), place.asynchronous()
    area.part(1, 2).unmap()
    context.register(area)
    context.protect(area)
    assert area.states() == ["AS", "none", "AS"]


@pytest.mark.parametrize(("first", "end"), [(1, 512), (0, 511), (1, 513)])
def test_hugetlb_needs_start_and_length_in_whole_huge_pages(place: Place, first: int, end: int) -> None:
    area, context = place.hugetlb(2), place.asynchronous()
    context.register(area)
    with raises(errno.EINVAL):
        context.protect(area.part(first, end))


def test_any_context_of_the_mm_may_protect_and_unprotect_any_registration(place: Place) -> None:
    area = place.map(1)
    area.fill()
    place.asynchronous().register(area)
    stranger = place.context()
    stranger.protect(area)
    assert area.state() == "AP"
    stranger.unprotect(area)
    assert area.state() == "AWP"


@pytest.mark.parametrize("touched", [True, False])
def test_protecting_twice_equals_once(place: Place, touched: bool) -> None:
    area = place.map(1)
    if touched:
        area.fill()
    context = place.armed(area)
    before = area.states()
    context.protect(area)
    assert area.states() == before
    context.unprotect(area)
    once = area.states()
    context.unprotect(area)
    assert area.states() == once == (["AWP"] if touched else ["AW"])


# ---- effect by kind of entry ---------------------------------------------------------------------


@pytest.mark.parametrize("maker", kinds.EVERY.values(), ids=kinds.EVERY)
def test_untouched_memory_gets_markers_in_an_asynchronous_context(place: Place, maker: Maker) -> None:
    area = maker(place, 4)
    place.armed(area)
    huge = "H" if area.n_pages >= place.per_huge else ""
    assert set(area.states()) == {f"AS{huge}"}
    assert area.protected() == list(range(area.n_pages))


@pytest.mark.parametrize("features", [0, WP_UNPOPULATED])
def test_untouched_anonymous_memory_needs_wp_unpopulated(place: Place, features: int) -> None:
    area, context = place.map(2), place.context(features)
    context.register(area, WP)
    context.protect(area)
    assert area.protected() == ([0, 1] if features else [])
    if not features:
        area.write(0)  # not trapped
        assert area.read(0) == 1


def test_untouched_shmem_gets_markers_without_wp_unpopulated(place: Place) -> None:
    area, context = kinds.anon_shared(place, 2), place.context()
    context.register(area, WP)
    context.protect(area)
    assert area.protected() == [0, 1]


def test_unpopulated_rule_follows_the_context_that_owns_the_vma(place: Place) -> None:
    area = place.map(1)
    place.context().register(area, WP)
    place.context(WP_UNPOPULATED).protect(area)
    assert area.protected() == []


@pytest.mark.parametrize("prot", [mman.PROT_NONE, mman.PROT_READ])
def test_protecting_works_whatever_the_vma_protection_and_survives_mprotect(place: Place, prot: int) -> None:
    area = place.map(2)
    area.fill()
    area.protection(prot)
    place.armed(area)
    assert area.protected() == [0, 1]
    area.protection(RW)
    assert area.written() == []
    area.write(1)
    assert area.written() == [1]


def test_huge_page_wholly_inside_is_protected_in_one_piece(place: Place) -> None:
    area = place.filled_thp()
    place.armed(area)
    assert set(area.states()) == {"APH"}


def test_huge_page_partly_inside_is_split_and_only_the_part_protected(place: Place) -> None:
    area, context = place.filled_thp(), place.asynchronous()
    context.register(area)
    context.protect(area.part(0, 3))
    assert area.states() == ["AP"] * 3 + ["AWP"] * 509


def test_unprotecting_part_of_a_protected_huge_page_keeps_the_rest(place: Place) -> None:
    area = place.filled_thp()
    context = place.armed(area)
    context.unprotect(area.part(10, 11))
    assert area.written() == [10]
    assert "H" not in area.state(0)


def test_poison_and_guard_markers_are_left_alone(place: Place) -> None:
    """PAGEMAP_SCAN sets the bit on both."""
    area, context = place.map(2), place.asynchronous()
    context.register(area)
    context.poison(area.part(0, 1))
    area.part(1, 2).guard()
    assert area.states() == ["AWS", "AWSG"]
    context.protect(area)
    assert area.states() == ["AWS", "AWSG"]
    area.collect()
    assert area.states() == ["AS", "ASG"]


# ---- asynchronous contexts and un-protect --------------------------------------------------------


def test_unprotect_of_an_asynchronous_context_is_accepted_and_forges_written(place: Place) -> None:
    """Point 4 of the review asked for a refusal; Linux never refused."""
    area = place.map(3)
    area.write(0, 1)
    context = place.armed(area)
    context.unprotect(area.part(0, 1))
    context.unprotect(area.part(2, 3))
    assert area.states() == ["AWP", "AP", "AW"]


def test_protect_then_unprotect_restores_written_everywhere_not_the_state_before(place: Place) -> None:
    area = place.map(4)
    area.write(0, 1)
    context = place.armed(area)
    area.write(1)
    context.protect(area)
    context.unprotect(area)
    assert area.written() == [0, 1, 2, 3]


def test_context_of_asynchronous_and_synchronous_live_side_by_side(place: Place) -> None:
    area = place.map(2)
    area.fill()
    place.armed(area.part(0, 1))
    waiting = place.context()
    waiting.register(area.part(1, 2), WP)
    waiting.protect(area.part(1, 2))
    area.write(0)
    task = place.spawn_write(area, 1)
    assert task.is_blocked()
    assert waiting.faults() == [(3, area.address(1))]
    waiting.unprotect(area.part(1, 2))
    task.result()


def test_feature_word_cannot_be_taken_back(place: Place) -> None:
    """Points 1 and 2: asynchronous from the handshake to close; no ioctl changes it."""
    area = place.map(1)
    area.fill()
    context = place.armed(area)
    with raises(errno.EINVAL):
        place.calls.uffdio(context.fd, uf.UFFDIO_API, uf.UffdioApi(uf.UFFD_API, 0, 0))
    area.write(0)
    assert context.messages() == []
    assert place.world.uffd_features(context.fd) & ASYNC
