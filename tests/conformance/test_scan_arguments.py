"""Section 6.2: what PAGEMAP_SCAN refuses, in which order, and the argument forms that it takes."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from tests.conformance.actions import GET_AND_PROTECT, Area, G, Place, W, raises
from tests.conformance.world import Need
from writewatch.abi import pagemap
from writewatch.abi.pagemap import PAGE_REGION, PmScanArg

USER_END = 0x7FFFFFFFF000
UNSET = 0x5A5A5A5A5A5A5A5A
MASKS = ("category_mask", "category_anyof_mask", "category_inverted", "return_mask")


def _argument(area: Area, **fields: int) -> PmScanArg:
    values = {"size": 96, "start": area.start, "end": area.end, "walk_end": UNSET} | fields
    return PmScanArg(**values)


def _refused(place: Place, number: int, argument: PmScanArg) -> None:
    """The scan fails with that errno, before the walk: ``walk_end`` is not written."""
    with raises(number):
        place.calls.pagemap_scan(place.pagemap, argument, None)
    assert argument.walk_end == UNSET


@pytest.mark.parametrize("size", [0, 88, 95, 97, 104])
def test_size_other_than_96_is_einval(place: Place, size: int) -> None:
    _refused(place, errno.EINVAL, _argument(place.map(1), size=size))


@pytest.mark.parametrize("flags", [4, 8, 0xFF, (1 << 64) - 1])
def test_unknown_flags_are_einval(place: Place, flags: int) -> None:
    _refused(place, errno.EINVAL, _argument(place.map(1), flags=flags))


@pytest.mark.parametrize("field", MASKS)
@pytest.mark.parametrize("bit", [pagemap.PAGE_IS_ACCESSED << 1, 1 << 40, 1 << 63])
def test_unknown_category_in_any_mask_is_einval(place: Place, field: str, bit: int) -> None:
    _refused(place, errno.EINVAL, _argument(place.map(1), **{field: bit}))


@pytest.mark.parametrize("field", MASKS)
def test_every_known_category_is_accepted_in_every_mask(place: Place, field: str) -> None:
    argument = _argument(place.map(1), **{field: place.categories | pagemap.PAGE_IS_SOFT_DIRTY})
    assert place.calls.pagemap_scan(place.pagemap, argument, None) == 0


def test_unaligned_start_is_einval(place: Place) -> None:
    area = place.map(1)
    _refused(place, errno.EINVAL, _argument(area, start=area.start + 1))


def test_unaligned_end_is_rounded_up(place: Place) -> None:
    area = place.map(2)
    area.fill()
    vec = np.zeros(2, PAGE_REGION)
    argument = _argument(area, end=area.start + 1, category_mask=pagemap.PAGE_IS_PRESENT)
    assert place.calls.pagemap_scan(place.pagemap, argument, vec) == 1
    assert (int(vec[0]["start"]), int(vec[0]["end"])) == (area.start, area.address(1))
    assert argument.walk_end == area.address(1)


def test_end_before_start_is_efault(place: Place) -> None:
    area = place.map(2)
    _refused(place, errno.EFAULT, _argument(area, start=area.end, end=area.start))


@pytest.mark.parametrize(
    ("start", "end"), [(0, USER_END + 0x1000), (USER_END, USER_END + 0x1000), (0, 1 << 63)]
)
def test_range_outside_user_space_is_efault(place: Place, start: int, end: int) -> None:
    _refused(place, errno.EFAULT, _argument(place.map(1), start=start, end=end))


def test_the_whole_of_user_space_is_accepted(place: Place) -> None:
    argument = _argument(place.map(1), start=0, end=USER_END)
    assert place.calls.pagemap_scan(place.pagemap, argument, None) == 0
    assert argument.walk_end == USER_END


def test_null_vec_with_a_length_is_einval(place: Place) -> None:
    _refused(place, errno.EINVAL, _argument(place.map(1), vec=0, vec_len=5))


@pytest.mark.parametrize("vec", [0x8000000000000000, USER_END])
def test_vec_outside_user_space_is_efault(place: Place, vec: int) -> None:
    _refused(place, errno.EFAULT, _argument(place.map(1), vec=vec, vec_len=1000))


def test_huge_vec_len_saturates_and_is_efault(place: Place) -> None:
    area = place.map(1)
    _refused(place, errno.EFAULT, _argument(area, vec=area.start, vec_len=(1 << 64) - 1))


def test_vec_with_length_zero_is_accepted(place: Place) -> None:
    area = place.map(1)
    argument = _argument(area, vec=area.start, vec_len=0)
    assert place.calls.pagemap_scan(place.pagemap, argument, None) == 0


def test_size_is_checked_before_the_range(place: Place) -> None:
    area = place.map(1)
    _refused(place, errno.EINVAL, _argument(area, size=0, start=USER_END, end=0))


def test_alignment_is_checked_before_user_space(place: Place) -> None:
    _refused(place, errno.EINVAL, _argument(place.map(1), start=USER_END + 1, end=USER_END + 0x2000))


def test_range_is_checked_before_the_vec(place: Place) -> None:
    _refused(place, errno.EFAULT, _argument(place.map(1), end=1 << 63, vec=0, vec_len=5))


@pytest.mark.parametrize("flags", [0, GET_AND_PROTECT])
def test_empty_range_returns_nothing_and_walk_end_is_its_start(place: Place, flags: int) -> None:
    area = place.map(1)
    place.armed(area)
    argument = _argument(area, end=area.start, flags=flags, category_mask=W, return_mask=W)
    assert place.calls.pagemap_scan(place.pagemap, argument, np.zeros(4, PAGE_REGION)) == 0
    assert argument.walk_end == area.start


@pytest.mark.parametrize("bit", [1 << n for n in range(9)])
def test_zero_length_scan_says_which_categories_exist(place: Place, bit: int) -> None:
    if bit == G and not place.categories & G:
        pytest.skip("PAGE_IS_GUARD is newer than this kernel (v6.16)")
    area = place.map(1)
    argument = _argument(area, end=area.start, category_mask=bit)
    assert place.calls.pagemap_scan(place.pagemap, argument, None) == 0


def test_accessed_is_newer_than_6_18(place: Place) -> None:
    area = place.map(1)
    argument = _argument(area, end=area.start, category_mask=pagemap.PAGE_IS_ACCESSED)
    try:
        place.calls.pagemap_scan(place.pagemap, argument, None)
    except OSError:
        _refused(place, errno.EINVAL, argument)
    else:
        pytest.skip("this kernel tracks reads: newer than v6.18")


def test_only_walk_end_is_written_back(place: Place) -> None:
    area = place.map(4)
    area.fill()
    argument = _argument(area, max_pages=2, category_mask=W, return_mask=W)
    before = {name: getattr(argument, name) for name, _ in argument._fields_}
    vec = np.zeros(4, PAGE_REGION)
    place.calls.pagemap_scan(place.pagemap, argument, vec)
    for name, value in before.items():
        if name not in ("walk_end", "vec", "vec_len"):
            assert getattr(argument, name) == value, name


def test_dead_mm_is_esrch(place: Place) -> None:
    area = place.map(1)
    child = place.world.fork()
    fd = place.calls.open_pagemap(child.pid)
    child.exit()
    with raises(errno.ESRCH):
        place.calls.pagemap_scan(fd, _argument(area), None)
    assert len(place.calls.read_pagemap(fd, area.start // place.page, 1)) == 0


def test_exec_ends_the_mm_of_an_open_pagemap(place: Place) -> None:
    place.world.needs(Need.EXEC)
    area = place.map(1)
    child = place.world.fork()
    fd = place.calls.open_pagemap(child.pid)
    child.execute()
    with raises(errno.ESRCH):
        place.calls.pagemap_scan(fd, _argument(area), None)


def test_a_monitor_may_protect_another_process_through_its_pagemap(place: Place) -> None:
    """Section 6.7: registration by the target is enough; the monitor needs no userfaultfd."""
    area = place.map(2)
    child = place.world.fork()
    inside = place.elsewhere(area, child)
    inside.fill()
    inside.place.asynchronous().register(inside)
    monitor = Area(Place(place.world), area.start, area.length)
    monitor.place.pagemap = place.calls.open_pagemap(child.pid)
    assert monitor.collect().runs == [(0, 2)]
    inside.write(1)
    assert monitor.collect().runs == [(1, 2)]


def test_a_monitor_holding_the_targets_descriptor_acts_on_the_target(place: Place) -> None:
    area = place.map(1)
    child = place.world.fork()
    inside = place.elsewhere(area, child)
    inside.fill()
    context = inside.place.asynchronous()
    context.fd = child.send_descriptor(context.fd, place.world)
    context.place = place
    context.register(area)
    context.protect(area)
    assert inside.states() == ["AP"]
    assert area.states() == [""] or area.states() == ["W"]


def test_missing_pagemap_is_enoent(place: Place) -> None:
    with raises(errno.ENOENT):
        place.calls.open_pagemap(2**22 + 1)
