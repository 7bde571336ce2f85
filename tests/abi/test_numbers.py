"""Request numbers and layouts as literals: what the installed headers may be too old to confirm."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest

from writewatch.abi import ioctl, pagemap, userfaultfd
from writewatch.abi.pagemap import PAGE_REGION, PageRegion, PmScanArg, category_names
from writewatch.abi.userfaultfd import FEATURES, UFFD_MSG, UFFDIO_CALLS, UffdMsg, feature_names

REQUESTS = {
    "UFFDIO_API": (0xC018AA3F, 24),
    "UFFDIO_REGISTER": (0xC020AA00, 32),
    "UFFDIO_UNREGISTER": (0x8010AA01, 16),
    "UFFDIO_WAKE": (0x8010AA02, 16),
    "UFFDIO_COPY": (0xC028AA03, 40),
    "UFFDIO_ZEROPAGE": (0xC020AA04, 32),
    "UFFDIO_MOVE": (0xC028AA05, 40),
    "UFFDIO_WRITEPROTECT": (0xC018AA06, 24),
    "UFFDIO_CONTINUE": (0xC020AA07, 32),
    "UFFDIO_POISON": (0xC020AA08, 32),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_number_and_size_of_its_structure(name: str) -> None:
    number, size = REQUESTS[name]
    assert getattr(userfaultfd, name) == number
    known_as, structure = UFFDIO_CALLS[number]
    assert known_as == name
    assert ctypes.sizeof(structure) == size
    # The request repeats the size of its structure in bits 16 to 29.
    assert number >> 16 & 0x3FFF == size


def test_every_ioctl_of_the_header_is_in_the_table() -> None:
    assert {name for name, _ in UFFDIO_CALLS.values()} == set(REQUESTS)


def test_pagemap_scan_and_the_device() -> None:
    assert pagemap.PAGEMAP_SCAN == 0xC0606610
    assert ctypes.sizeof(PmScanArg) == 96
    assert userfaultfd.USERFAULTFD_IOC_NEW == 0xAA00


def test_ioctl_number_is_the_bit_in_the_ioctls_word() -> None:
    assert ioctl.ioctl_number(userfaultfd.UFFDIO_API) == 63
    assert ioctl.ioctl_number(userfaultfd.UFFDIO_WRITEPROTECT) == 6


@pytest.mark.parametrize(
    ("structure", "field", "offset"),
    [
        (userfaultfd.UffdioRegister, "ioctls", 24),
        (userfaultfd.UffdioCopy, "copy", 32),
        (userfaultfd.UffdioZeropage, "zeropage", 24),
        (userfaultfd.UffdioMove, "move", 32),
        (userfaultfd.UffdioWriteprotect, "mode", 16),
        (userfaultfd.UffdioContinue, "mapped", 24),
        (userfaultfd.UffdioPoison, "updated", 24),
        (PmScanArg, "walk_end", 32),
        (PmScanArg, "vec", 40),
        (PmScanArg, "max_pages", 56),
        (PmScanArg, "category_inverted", 64),
        (PmScanArg, "return_mask", 88),
    ],
)
def test_field_lies_where_the_kernel_writes_it(
    structure: type[ctypes.Structure], field: str, offset: int
) -> None:
    assert getattr(structure, field).offset == offset


@pytest.mark.parametrize("field", ["copy", "zeropage", "move", "mapped", "updated"])
def test_result_field_is_signed(field: str) -> None:
    (structure,) = (s for _, s in UFFDIO_CALLS.values() if field in dict(s._fields_))  # type: ignore[arg-type]
    argument = structure()
    setattr(argument, field, -11)
    assert getattr(argument, field) == -11


def test_page_region_is_the_same_as_structure_and_as_record() -> None:
    assert PAGE_REGION.itemsize == ctypes.sizeof(PageRegion) == 24
    assert PAGE_REGION.fields is not None
    for name, field in PAGE_REGION.fields.items():
        assert getattr(PageRegion, name).offset == field[1]


@pytest.mark.parametrize(
    ("event", "format_", "values"),
    [
        ("pagefault", "<QQI", (3, 0x7F0000001000, 4711)),
        ("fork", "<I", (9,)),
        ("remap", "<QQQ", (0x1000, 0x2000, 0x3000)),
        ("remove", "<QQ", (0x1000, 0x2000)),
    ],
)
def test_message_is_the_same_as_structure_and_as_record(
    event: str, format_: str, values: tuple[int, ...]
) -> None:
    raw = struct.pack("<BBHI", 0x12, 0, 0, 0) + struct.pack(format_, *values).ljust(24, b"\0")
    assert UFFD_MSG.itemsize == ctypes.sizeof(UffdMsg) == len(raw) == 32
    argument = getattr(UffdMsg.from_buffer_copy(raw).arg, event)
    fields = tuple(getattr(argument, name) for name, _ in argument._fields_)
    assert fields == values
    record = np.frombuffer(raw, UFFD_MSG)[0]
    assert record["event"] == 0x12
    assert tuple(record["arg"].tolist())[: len(values)] == values


def test_features_are_seventeen_consecutive_bits_and_named() -> None:
    assert [feature.bit for feature in FEATURES] == [1 << n for n in range(17)]
    assert all(getattr(userfaultfd, f"UFFD_FEATURE_{feature.name}") == feature.bit for feature in FEATURES)
    assert sum(feature.bit for feature in FEATURES) == 0x1FFFF


def test_names_of_bits() -> None:
    assert feature_names(0x8000 | 1) == ("PAGEFAULT_FLAG_WP", "WP_ASYNC")
    assert feature_names(1 << 40) == ("BIT_40",)
    assert feature_names(0) == ()
    assert category_names(0x102) == ("WRITTEN", "GUARD")
    assert category_names(0) == ()


def test_category_bits() -> None:
    names = [
        "WPALLOWED",
        "WRITTEN",
        "FILE",
        "PRESENT",
        "SWAPPED",
        "PFNZERO",
        "HUGE",
        "SOFT_DIRTY",
        "GUARD",
        "ACCESSED",
    ]
    assert {f"PAGE_IS_{name}": 1 << n for n, name in enumerate(names)} == {
        name: value for name, value in vars(pagemap).items() if name.startswith("PAGE_IS_")
    }


def test_pagemap_bits() -> None:
    assert pagemap.PM_PFRAME_MASK == 0x7FFFFFFFFFFFFF
    bits = (55, 56, 57, 58, 61, 62, 63)
    names = ("SOFT_DIRTY", "MMAP_EXCLUSIVE", "UFFD_WP", "GUARD_REGION", "FILE", "SWAP", "PRESENT")
    assert [getattr(pagemap, f"PM_{name}") for name in names] == [1 << bit for bit in bits]
