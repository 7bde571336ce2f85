"""``allocate``: memory of its own, zero, and gone with its last view."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

import writewatch as ww
from writewatch.kernel.maps import SmapsVma, read_smaps


def mapping_of(array: np.ndarray[Any, Any]) -> SmapsVma:
    at = array.ctypes.data
    return next(one for one in read_smaps() if one.vma.start <= at < one.vma.end)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (10, (10,)),
        (np.int64(10), (10,)),
        ((3, 4), (3, 4)),
        ([3, np.int32(4)], (3, 4)),
        ((), ()),
        (0, (0,)),
        ((5, 0, 3), (5, 0, 3)),
    ],
)
def test_the_shape_is_as_for_numpy(shape: Any, expected: tuple[int, ...]) -> None:
    array = ww.allocate(shape, "i2")
    assert array.shape == expected
    assert array.dtype == np.int16
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert not array.any()


def test_the_dtype_is_double_unless_told() -> None:
    assert ww.allocate(3).dtype == np.float64
    assert ww.allocate(3, [("a", "u1"), ("b", "f4")]).dtype.itemsize == 5


@pytest.mark.parametrize("n_bytes", [1, 100, 4096, 4097, 1_000_000])
def test_it_begins_a_page_and_shares_none(n_bytes: int, page_size: int) -> None:
    arrays = [ww.allocate(n_bytes, "u1") for _ in range(5)]
    pages = [
        set(range(array.ctypes.data // page_size, (array.ctypes.data + n_bytes - 1) // page_size + 1))
        for array in arrays
    ]
    assert all(array.ctypes.data % page_size == 0 for array in arrays)
    assert len(set().union(*pages)) == sum(map(len, pages))


def test_a_report_is_about_the_array_alone(page_size: int) -> None:
    array = ww.allocate((10, page_size), "u1")
    with ww.track(array) as tracker:
        noise = [bytearray(page_size) for _ in range(100)]
        array[9] = 1
        dirty = tracker.collect()
    assert len(noise) == 100
    assert dirty.pages(array).tolist()[-1] == 9
    if dirty.exact:
        assert dirty.n_pages == 1


def test_it_is_private_anonymous_memory() -> None:
    vma = mapping_of(ww.allocate(100_000)).vma
    assert (vma.perms, vma.inode, vma.name) == ("rw-p", 0, "")


@pytest.mark.parametrize(("huge_pages", "flag"), [(True, "hg"), (False, "nh")])
def test_huge_pages_are_asked_for_or_forbidden(huge_pages: bool, flag: str) -> None:
    if not ww.capabilities().works("thp"):
        pytest.skip("thp: this kernel has no transparent huge pages")
    array = ww.allocate(1_000_000, huge_pages=huge_pages)
    assert flag in mapping_of(array).flags
    assert not {"hg", "nh"} & mapping_of(ww.allocate(1_000_000)).flags


@pytest.mark.parametrize("dtype", [object, [("a", "f4"), ("b", object)]])
def test_objects_are_refused(dtype: Any) -> None:
    with pytest.raises(ww.UsageError, match="Python objects"):
        ww.allocate(3, dtype)


@pytest.mark.parametrize("shape", [-1, (3, -2)])
def test_a_negative_length_is_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="negative"):
        ww.allocate(shape)


@pytest.mark.parametrize("shape", [2.5, "ab", (3, None)])
def test_a_length_that_is_no_integer_is_refused(shape: Any) -> None:
    with pytest.raises(TypeError):
        ww.allocate(shape)


def test_too_much_is_an_error_of_the_kernel() -> None:
    with pytest.raises(OSError, match="memory") as caught:
        ww.allocate(1 << 59, "u1")
    assert caught.value.errno == errno.ENOMEM
