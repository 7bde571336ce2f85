"""``/proc/PID/maps``, ``smaps`` and ``status``: what the kernel prints, parsed, and what it prints for us."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.mman import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from writewatch.kernel.maps import parse_maps, parse_smaps, read_smaps, status_bytes
from writewatch.kernel.userfaultfd import Userfaultfd

MAPS = rb"""00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
7f12a0000000-7f12a0200000 rw-s 00100000 00:01 4097                       /dev/zero (deleted)
7f12b0000000-7f12b0001000 r--p 00000000 fd:00 99                         /tmp/two words \012 line
7ffe5c1d8000-7ffe5c1f9000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""

SMAPS = b"""7f0000000000-7f0000400000 rw-p 00000000 00:00 0 [anon:a pool]
Size:               4096 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
AnonHugePages:      2048 kB
ShmemPmdMapped:        0 kB
Locked:               16 kB
VmFlags: rd wr mr mw me ac sd uw
7f0000400000-7f0000600000 rw-s 00000000 00:0f 5 /anon_hugepage (deleted)
KernelPageSize:     2048 kB
ShmemPmdMapped:     2048 kB
VmFlags: rd wr sh mr mw me ms de ht sd
7f0000600000-7f0000601000 ---p 00000000 00:00 0
"""


def test_every_line_is_a_vma() -> None:
    assert parse_maps(MAPS) == (
        Vma(0x400000, 0x452000, "r-xp", 0, "08:02", 173521, "/usr/bin/dbus-daemon"),
        Vma(0x7F0000000000, 0x7F0000021000, "rw-p", 0, "00:00", 0, ""),
        Vma(0x7F12A0000000, 0x7F12A0200000, "rw-s", 0x100000, "00:01", 4097, "/dev/zero (deleted)"),
        Vma(0x7F12B0000000, 0x7F12B0001000, "r--p", 0, "fd:00", 99, "/tmp/two words \\012 line"),
        Vma(0x7FFE5C1D8000, 0x7FFE5C1F9000, "rw-p", 0, "00:00", 0, "[stack]"),
        Vma(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "--xp", 0, "00:00", 0, "[vsyscall]"),
    )


def test_what_a_vma_says_of_itself() -> None:
    text, anonymous, shared, *_ = parse_maps(MAPS)
    assert (text.is_shared, text.is_writable, text.is_file) == (False, False, True)
    assert (anonymous.is_shared, anonymous.is_writable, anonymous.is_file) == (False, True, False)
    assert (shared.is_shared, shared.is_writable, shared.is_file) == (True, True, True)


def test_an_empty_file_has_no_vmas() -> None:
    assert parse_maps(b"") == ()
    assert parse_smaps(b"") == ()


def test_a_line_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"not a line of /proc/PID/maps: b'nonsense'"):
        parse_maps(b"nonsense\n")


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\n" not in name and b"\0" not in name))
@settings(deadline=None)
def test_a_name_may_have_any_bytes(name: bytes) -> None:
    # Only the newline is escaped by the kernel; every other byte of a path is printed as it is.
    path = b"/" + name + b"x"
    lines = b"1000-2000 rw-p 00000000 08:02 7                          " + path + b"\n"
    vmas = parse_maps(lines * 2)
    assert [os.fsencode(vma.name) for vma in vmas] == [path, path]


def test_smaps_adds_flags_and_sizes() -> None:
    first, huge, bare = parse_smaps(SMAPS)
    assert first.vma.name == "[anon:a pool]"
    assert first.flags == frozenset(["rd", "wr", "mr", "mw", "me", "ac", "sd", "uw"])
    assert first.is_registered_wp
    assert (first.huge_bytes, first.locked_bytes, first.kernel_page_size) == (2 << 20, 16 << 10, 4096)
    assert not huge.is_registered_wp
    assert (huge.huge_bytes, huge.kernel_page_size) == (2 << 20, 2 << 20)
    assert bare.flags == frozenset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Name:\tx\nVmPin:\t       8 kB\nVmHWM:\t1 kB\n", 8192),
        (b"Name:\tx\nVmPin:\t       0 kB\n", 0),
        (b"Name:\tVmPin:\nVmHWM:\t1 kB\n", 0),
        (b"", 0),
    ],
)
def test_a_line_of_status_in_bytes(text: bytes, expected: int) -> None:
    assert status_bytes(text, b"VmPin:") == expected


# ---- this process --------------------------------------------------------------------------------

on_linux = pytest.mark.kernel("pagemap")


@on_linux
def test_own_maps_are_ascending_and_hold_this_file_mapping(
    calls: KernelCalls, tmp_path: Path, memory: Callable[..., int], page: int
) -> None:
    path = tmp_path / "a file\nof two lines"
    path.write_bytes(b"x" * page)
    fd = os.open(path, os.O_RDONLY)
    start = calls.mmap(0, page, PROT_READ, MAP_PRIVATE, fd)
    os.close(fd)
    try:
        vmas = calls.vmas(None)
        assert vmas == tuple(sorted(vmas, key=lambda vma: vma.start))
        (mine,) = (vma for vma in vmas if vma.start == start)
        assert mine.name == str(path).replace("\n", "\\012")
        assert mine.inode == path.stat().st_ino
        assert mine.perms == "r--p"
    finally:
        calls.munmap(start, page)


@on_linux
def test_own_smaps_show_a_registration(calls: KernelCalls, page: int) -> None:
    start = calls.mmap(0, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS)
    try:
        with Userfaultfd() as uffd:
            uffd.register(start, page, wp=True)
            (mine,) = (entry for entry in read_smaps() if entry.vma.start == start)
            assert mine.is_registered_wp
            assert mine.vma.end == start + page
        (mine,) = (entry for entry in read_smaps() if entry.vma.start == start)
        assert not mine.is_registered_wp
    except OSError as refusal:
        pytest.skip(f"no registration here: {refusal}")
    finally:
        calls.munmap(start, 2 * page)


@on_linux
def test_smaps_of_a_child_are_the_childs(memory: Callable[..., int], calls: KernelCalls, page: int) -> None:
    start = memory(2)
    calls.madvise(start, page, MADV_HUGEPAGE)
    assert any(entry.vma.start <= start < entry.vma.end for entry in read_smaps(os.getpid()))
    with pytest.raises(FileNotFoundError):
        read_smaps(2**22 + 1)
