"""Sections 2.1 to 2.3: what UFFDIO_REGISTER refuses, which ioctls it promises, how VMAs split and merge."""

from __future__ import annotations

import errno

import pytest

from tests.conformance import kinds
from tests.conformance.actions import (
    ASYNC,
    MINOR,
    MISSING,
    PRIVATE,
    WP,
    Area,
    Place,
    raises,
)
from tests.conformance.kinds import Maker
from tests.conformance.machine import is_not_the_models_kernel
from tests.conformance.world import Need
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

USER_END = 0x7FFFFFFFF000
WAKE = 1 << 2
F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 0x8, 0x10


# ---- 2.1 errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0, 8, 9, 1 << 63])
def test_mode_zero_or_unknown_is_einval(place: Place, mode: int) -> None:
    with raises(errno.EINVAL):
        place.asynchronous().register(place.map(1), mode)


@pytest.mark.parametrize(("shift", "extra"), [(1, 0), (0, 1), (0, -1)])
def test_unaligned_range_is_einval(place: Place, shift: int, extra: int) -> None:
    area = place.map(3)
    with raises(errno.EINVAL):
        place.asynchronous().register(Area(place, area.start + shift, place.page + extra))


def test_empty_range_is_einval(place: Place) -> None:
    with raises(errno.EINVAL):
        place.asynchronous().register(Area(place, place.map(1).start, 0))


@pytest.mark.parametrize(
    ("start", "length"), [(USER_END, 0x1000), (USER_END - 0x1000, 0x2000), (0x1000000, -0x1000)]
)
def test_range_outside_user_space_is_einval(place: Place, start: int, length: int) -> None:
    with raises(errno.EINVAL):
        place.asynchronous().register(Area(place, start, length & (1 << 64) - 1))


def test_range_without_a_mapping_is_einval(place: Place) -> None:
    area = place.map(2)
    area.unmap()
    with raises(errno.EINVAL):
        place.asynchronous().register(area)


def test_dead_mm_is_enomem(place: Place) -> None:
    area = place.map(1)
    child = place.world.fork()
    inside = place.elsewhere(area, child)
    context = inside.place.asynchronous()
    fd = child.send_descriptor(context.fd, place.world)
    child.exit()
    context.place, context.fd = place, fd
    with raises(errno.ENOMEM):
        context.register(area)


def test_hugetlb_start_must_be_aligned_to_the_huge_page(place: Place) -> None:
    area = place.hugetlb(2)
    with raises(errno.EINVAL):
        place.asynchronous().register(area.part(1, area.n_pages))


def test_hugetlb_end_must_be_aligned_to_the_huge_page(place: Place) -> None:
    area = place.hugetlb(2)
    with raises(errno.EINVAL):
        place.asynchronous().register(area.part(0, area.n_pages - 1))


def test_shared_read_only_mapping_of_a_read_only_descriptor_is_eperm(place: Place) -> None:
    place.world.needs(Need.REGULAR_FILE)
    fd = place.world.regular_file(place.page, writable=False)
    area = place.map(1, mman.MAP_SHARED, mman.PROT_READ, fd)
    with raises(errno.EPERM):
        place.asynchronous().register(area)


@pytest.mark.parametrize("seal", [F_SEAL_WRITE, F_SEAL_FUTURE_WRITE])
def test_memfd_sealed_against_writing_is_eperm(place: Place, seal: int) -> None:
    fd = place.memfd(1, mman.MFD_ALLOW_SEALING)
    place.world.seal(fd, seal)
    area = place.map(1, mman.MAP_SHARED, mman.PROT_READ, fd)
    with raises(errno.EPERM):
        place.asynchronous().register(area)


def test_range_of_another_context_is_ebusy(place: Place) -> None:
    area = place.map(2)
    place.asynchronous().register(area.part(1, 2))
    with raises(errno.EBUSY):
        place.asynchronous().register(area)


def test_failed_register_changes_nothing(place: Place) -> None:
    area = place.map(3)
    place.asynchronous().register(area.part(2, 3))
    with raises(errno.EBUSY):
        place.asynchronous().register(area)
    area.fill()
    assert area.states() == ["WP", "WP", "AWP"]


def test_holes_are_allowed_anywhere_in_the_range(place: Place) -> None:
    area = place.map(7)
    for hole in (0, 3, 6):
        area.part(hole, hole + 1).unmap()
    place.asynchronous().register(area)
    area.write(1, 2, 4, 5)
    assert area.states() == ["none", "AWP", "AWP", "none", "AWP", "AWP", "none"]


# ---- 2.2 which VMAs, which ioctls ----------------------------------------------------------------

Words = dict[int, int | None]  # register mode -> ioctls word, None where it is EINVAL
ANON_WORDS: Words = {MISSING: 0x13C, WP: 0x17C, 3: 0x17C, MINOR: None, 5: None, 6: None, 7: None}
SHMEM_WORDS: Words = {MISSING: 0x13C, WP: 0x17C, 3: 0x17C, MINOR: 0x1BC, 5: 0x1BC, 6: 0x1FC, 7: 0x1FC}
HUGETLB_WORDS: Words = {MISSING: 0x10C, WP: 0x14C, 3: 0x14C, MINOR: 0x18C, 5: 0x18C, 6: 0x1CC, 7: 0x1CC}
SYNC_FILE_WORDS: Words = dict.fromkeys((MISSING, WP, MINOR, 3, 5, 6, 7))
ASYNC_FILE_WORDS = SYNC_FILE_WORDS | {WP: 0x17C}

IOCTL_TABLE: list[tuple[str, Maker, int, Words]] = [
    *((f"anon-{name}", maker, features, ANON_WORDS) for features in (0, ASYNC)
      for name, maker in {"rw": kinds.anon, "none": kinds.prot_none, "read": kinds.read_only}.items()),
    *((name, maker, features, SHMEM_WORDS) for features in (0, ASYNC)
      for name, maker in kinds.ORDINARY.items() if name != "anon"),
    *((name, maker, features, HUGETLB_WORDS) for features in (0, ASYNC)
      for name, maker in kinds.HUGETLB.items()),
    *((name, maker, features, words)
      for features, words in ((0, SYNC_FILE_WORDS), (ASYNC, ASYNC_FILE_WORDS))
      for name, maker in (kinds.REGULAR | {"file-read-only": kinds.file_private_read_only}).items()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("maker", "features", "words"),
    [pytest.param(m, f, w, id=f"{n}-{'async' if f else 'sync'}") for n, m, f, w in IOCTL_TABLE],
)
def test_register_promises_these_ioctls(place: Place, maker: Maker, features: int, words: Words) -> None:
    for mode, word in words.items():
        area, context = maker(place, 2), place.context(features)
        if word is None:
            with raises(errno.EINVAL):
                context.register(area, mode)
        else:
            assert hex(context.register(area, mode)) == hex(word), mode


def test_one_hugetlb_vma_in_the_range_takes_zeropage_and_move_from_the_answer(place: Place) -> None:
    huge = place.hugetlb(2)
    place.map_at(huge.start, place.per_huge)
    word = place.asynchronous().register(huge)
    assert word == 0x14C


def test_vdso_and_vvar_are_einval(place: Place) -> None:
    special = [v for v in place.calls.vmas(None) if v.name in ("[vdso]", "[vvar]")]
    if not special:
        pytest.skip("this process has no vdso")
    for vma in special:
        with raises(errno.EINVAL):
            place.asynchronous().register(Area(place, vma.start, vma.end - vma.start))


@pytest.mark.skipif(
    bool(is_not_the_models_kernel()), reason="6.12 registers it: " + is_not_the_models_kernel()
)
def test_droppable_memory_is_einval(place: Place) -> None:
    try:
        area = place.map(1, mman.MAP_DROPPABLE | mman.MAP_ANONYMOUS)
    except OSError:
        pytest.skip("MAP_DROPPABLE is newer than this kernel (v6.11)")
    for mode in (MISSING, WP):
        with raises(errno.EINVAL):
            place.asynchronous().register(area, mode)


def test_secret_memory_takes_asynchronous_wp_only(place: Place) -> None:
    place.world.needs(Need.SECRETMEM)
    fd = place.world.memfd_secret()
    place.calls.ftruncate(fd, place.page)
    area = place.map(1, mman.MAP_SHARED, fd=fd)
    with raises(errno.EINVAL):
        place.context().register(area, WP)
    with raises(errno.EINVAL):
        place.asynchronous().register(area, MISSING | WP)
    assert place.asynchronous().register(area, WP) == 0x17C


# ---- 2.3 splitting, merging, re-registering ------------------------------------------------------


def _edges(place: Place, area: Area) -> list[tuple[int, int]]:
    return [
        ((v.start - area.start) // place.page, (v.end - area.start) // place.page)
        for v in place.calls.vmas(None)
        if area.start <= v.start and v.end <= area.end
    ]


@pytest.fixture
def island(place: Place) -> Area:
    """Nine pages with unmapped neighbours, so that VMAs merge among themselves only."""
    room = place.map(11, prot=mman.PROT_NONE)
    room.part(0, 1).unmap()
    room.part(10, 11).unmap()
    area = room.part(1, 10)
    area.protection(mman.PROT_READ | mman.PROT_WRITE)
    return area


def test_register_splits_vmas_at_its_ends(place: Place, island: Area) -> None:
    place.asynchronous().register(island.part(3, 6))
    assert _edges(place, island) == [(0, 3), (3, 6), (6, 9)]


def test_registered_neighbours_of_one_context_and_mode_merge(place: Place, island: Area) -> None:
    context = place.asynchronous()
    context.register(island.part(0, 3))
    context.register(island.part(3, 9))
    assert _edges(place, island) == [(0, 9)]


def test_neighbours_of_another_mode_do_not_merge(place: Place, island: Area) -> None:
    context = place.asynchronous()
    context.register(island.part(0, 3), WP)
    context.register(island.part(3, 9), WP | MISSING)
    assert _edges(place, island) == [(0, 3), (3, 9)]


def test_neighbours_of_another_context_do_not_merge(place: Place, island: Area) -> None:
    place.asynchronous().register(island.part(0, 3))
    place.asynchronous().register(island.part(3, 9))
    assert _edges(place, island) == [(0, 3), (3, 9)]


def test_unregister_merges_with_equal_neighbours_again(place: Place, island: Area) -> None:
    context = place.asynchronous()
    context.register(island.part(3, 6))
    context.unregister(island.part(3, 6))
    assert _edges(place, island) == [(0, 9)]


@pytest.mark.parametrize(("mode", "flag"), [(MISSING, "um"), (WP, "uw"), (MINOR, "ui")])
def test_smaps_shows_the_mode(place: Place, mode: int, flag: str) -> None:
    place.world.needs(Need.SMAPS)
    area = kinds.anon_shared(place, 2)
    place.context().register(area, mode)
    assert place.world.vm_flags(area.start) & {"um", "uw", "ui"} == {flag}


def test_new_mapping_in_a_hole_of_a_registration_is_not_registered(place: Place) -> None:
    area = place.map(3)
    area.part(1, 2).unmap()
    place.asynchronous().register(area)
    place.map_at(area.address(1), 1, PRIVATE)
    area.fill()
    assert area.states() == ["AWP", "WP", "AWP"]


def test_growth_in_place_extends_the_registration_unprotected(place: Place) -> None:
    room = place.map(4)
    area = room.part(0, 2)
    room.part(2, 4).unmap()
    place.armed(area)
    assert place.calls.mremap(area.start, area.length, 4 * place.page, 0) == area.start
    assert room.states() == ["AS", "AS", "AW", "AW"]
    assert room.written() == [2, 3]


def test_registering_a_subset_of_the_modes_changes_nothing(place: Place) -> None:
    place.world.needs(Need.SMAPS)
    area = place.map(1)
    context = place.asynchronous()
    context.register(area, MISSING | WP)
    context.register(area, MISSING)
    assert place.world.vm_flags(area.start) >= {"um", "uw"}


def test_wp_reregistered_as_missing_leaves_bits_behind_that_hide_writes(place: Place) -> None:
    """Open on 6.18: newer kernels answer EBUSY to a registration that drops WP."""
    area = place.map(2)
    area.fill()
    context = place.armed(area)
    try:
        context.register(area, MISSING)
    except OSError:
        pytest.skip("this kernel refuses a registration that drops WP")
    assert area.protected() == [0, 1]
    area.write(0, value=7)
    assert area.protected() == [0, 1]
    assert area.read(0) == 7
    assert area.states() == ["P", "P"]


def test_splitting_a_vma_inside_a_huge_page_splits_the_huge_page(place: Place) -> None:
    area = place.filled_thp()
    place.asynchronous().register(area.part(0, 256))
    assert "H" not in area.state(0)
    assert area.state(0) == "AWP"
    assert area.state(511) == "WP"


def test_register_wp_keeps_first_touch_in_one_huge_page(place: Place) -> None:
    area = place.thp()
    place.asynchronous().register(area)
    area.write(0)
    assert set(area.states()) == {"AWPH"}


def test_register_resolves_nothing_and_protects_nothing(place: Place) -> None:
    area = place.map(2)
    area.write(0)
    place.asynchronous().register(area)
    assert area.states() == ["AWP", "AW"]
    assert area.protected() == []


def test_registered_word_always_has_wake_and_poison(place: Place) -> None:
    word = place.asynchronous().register(place.map(1))
    assert word & WAKE
    assert word >> uf.UFFDIO_POISON % 256 & 1
