"""What mappings are called."""

from __future__ import annotations

import re

import pytest

import writewatch as ww
from tests.tracker.process.targets import Target
from writewatch.abi.calls import Vma
from writewatch.kernel.maps import parse_maps
from writewatch.tracker.process.images import span_of
from writewatch.tracker.process.mappings import Hints, named
from writewatch.tracker.process.writes import KINDS, Mapping

MIB = 1 << 20


def names(text: str, hints: Hints | None = None) -> list[tuple[str, str]]:
    """Name and kind of each mapping of a ``maps`` text."""
    return [(one.name, one.kind) for one in named(parse_maps(text.encode()), hints=hints)]


def vma(start: int, end: int, perms: str = "rw-p", rest: str = "0 00:00 0") -> str:
    return f"{start:x}-{end:x} {perms} {rest}\n"


@pytest.mark.parametrize(
    ("line", "name", "kind"),
    [
        ("1000-2000 rw-p 0 00:00 0 [heap]", "[heap]", "heap"),
        ("1000-2000 rw-p 0 00:00 0 [stack]", "[stack]", "stack"),
        ("1000-2000 rw-p 0 00:00 0", "[anonymous]", "anonymous"),
        ("1000-2000 rw-p 0 00:00 0 [anon:jit cache]", "[anon:jit cache]", "anonymous"),
        ("1000-2000 rw-p 0 00:00 0 [anon: glibc: malloc]", "[anon: glibc: malloc]", "heap"),
        ("1000-2000 rw-p 0 00:00 0 [anon:stack_and_tls:77]", "[anon:stack_and_tls:77]", "stack"),
        ("1000-2000 rw-s 0 00:01 7 [anon_shmem:ring]", "[anon_shmem:ring]", "shared"),
        ("1000-2000 rw-s 0 00:01 7 /dev/zero (deleted)", "shared anonymous memory", "shared"),
        ("1000-2000 rw-s 0 00:01 7 /memfd:frames (deleted)", "memfd:frames", "shared"),
        ("1000-2000 rw-s 0 00:01 32770 /SYSV0052e2c1 (deleted)", "SysV shared memory, key 0x0052e2c1, id 32770",
         "shared"),
        ("1000-2000 rw-s 0 00:18 7 /dev/shm/PostgreSQL.12", "/dev/shm/PostgreSQL.12", "shared"),
        ("1000-2000 rw-s 0 08:01 7 /var/lib/db", "/var/lib/db", "file"),
        ("1000-2000 rw-p 0 08:01 7 /tmp/a b\\012c (deleted)", "/tmp/a b\\012c (deleted)", "file"),
        ("200000-400000 rw-p 0 00:0f 7 /anon_hugepage (deleted)", "huge pages", "anonymous"),
        ("1000-2000 rwxp 0 00:00 0", "[anonymous] executable (JIT)", "anonymous"),
        ("1000-2000 ---p 0 00:00 0", "[anonymous] guard", "anonymous"),
        ("100000-900000 ---p 0 00:00 0", "[anonymous] reserved", "anonymous"),
        ("1000-2000 r-xp 0 00:00 0 [vdso]", "[vdso]", "special"),
        ("1000-2000 rw-s 0 00:0e 7 anon_inode:[io_uring]", "anon_inode:[io_uring]", "special"),
        ("1000-2000 rw-s 0 00:05 7 /dev/nvidia0", "/dev/nvidia0", "special"),
    ],
)  # fmt: skip
def test_one_mapping(line: str, name: str, kind: str) -> None:
    assert names(line + "\n") == [(name, kind)]


LIBRARY = (
    vma(0x10000, 0x12000, "r--p", "0 08:01 5 /lib/libfoo.so.1")
    + vma(0x12000, 0x18000, "r-xp", "2000 08:01 5 /lib/libfoo.so.1")
    + vma(0x18000, 0x19000, "r--p", "8000 08:01 5 /lib/libfoo.so.1")
    + vma(0x19000, 0x1A000, "r--p", "8000 08:01 5 /lib/libfoo.so.1")
    + vma(0x1A000, 0x1B000, "rw-p", "9000 08:01 5 /lib/libfoo.so.1")
)


def test_parts_of_a_library() -> None:
    assert names(LIBRARY) == [
        ("libfoo.so.1 .text/.rodata", "library"),
        ("libfoo.so.1 .data.rel.ro", "library"),
        ("libfoo.so.1 .data", "library"),
    ]
    assert names(LIBRARY + vma(0x1B000, 0x1D000))[-1] == ("libfoo.so.1 .data/.bss", "library")
    assert names(LIBRARY + vma(0x1C000, 0x1D000))[-1] == ("[anonymous]", "anonymous")


def test_memory_behind_a_library_that_is_not_its_own() -> None:
    behind = LIBRARY + vma(0x1B000, 0x2B000)
    whole = Hints(spans={("08:01", 5): 0x1B000})
    assert names(behind, whole)[-1] == ("libfoo.so.1 .data/.bss", "library")
    hardly = Hints(spans={("08:01", 5): 0xC000})
    assert names(behind, hardly)[-2:] == [("libfoo.so.1 .data", "library"), ("[anonymous]", "anonymous")]


def test_a_library_that_was_replaced_on_disk_says_so() -> None:
    text = vma(0x10000, 0x12000, "r-xp", "0 08:01 5 /lib/libfoo.so.1 (deleted)")
    assert names(text) == [("libfoo.so.1 (deleted) .text/.rodata", "library")]


def test_the_stack_of_a_thread() -> None:
    text = vma(0x10000, 0x11000, "---p") + vma(0x11000, 0x91000)
    assert names(text, Hints((0x90000,))) == [("[anonymous] guard", "anonymous"), ("thread stack", "stack")]
    assert names(text, Hints((0x91000,)))[1] == ("[anonymous]", "anonymous")


def test_arenas_of_malloc_are_told_by_their_shape() -> None:
    at = 64 * MIB
    text = vma(at, at + 2 * MIB) + vma(at + 2 * MIB, 2 * at, "---p")
    assert names(text) == [("malloc arena (by its shape)", "heap")]
    assert names(vma(at, 2 * at)) == [("malloc arena (by its shape)", "heap")]
    assert names(vma(at + 4096, at + 2 * MIB)) == [("[anonymous]", "anonymous")]


@pytest.mark.parametrize(
    ("program", "bytes_", "name"),
    [
        ("/usr/bin/python3.12", 2 * MIB, "Python arenas (by their shape)"),
        ("/usr/lib/libpython3.11.so.1.0", MIB, "Python arenas (by their shape)"),
        ("/usr/bin/python3.8", 768 << 10, "Python arenas (by their shape)"),
        ("/usr/bin/python3.12", 768 << 10, "[anonymous]"),
        ("/usr/bin/python3.12", 2 * MIB + 4096, "[anonymous]"),
        ("/usr/bin/perl", 2 * MIB, "[anonymous]"),
    ],
)
def test_arenas_of_python(program: str, bytes_: int, name: str) -> None:
    text = vma(0x10000, 0x12000, "r-xp", f"0 08:01 5 {program}") + vma(16 * MIB, 16 * MIB + bytes_)
    assert names(text)[-1][0] == name


def test_neighbours_with_one_name_are_one_mapping() -> None:
    vmas = parse_maps((vma(0x1000, 0x2000) + vma(0x2000, 0x3000) + vma(0x4000, 0x5000)).encode())
    first, second = named(vmas)
    assert (first.start, first.end, len(first.vmas)) == (0x1000, 0x3000, 2)
    assert (second.start, second.end) == (0x4000, 0x5000)


def test_a_neighbour_that_is_not_tracked_stays_apart() -> None:
    vmas = parse_maps((vma(0x1000, 0x2000) + vma(0x2000, 0x3000)).encode())
    first, second = named(vmas, untracked={vmas[1]: "busy"}, unseen={vmas[0]: "shared"})
    assert (first.tracked, first.unseen) == (True, "shared")
    assert (second.tracked, second.unseen) == (False, "busy")


def test_no_mapping_at_all() -> None:
    assert named(()) == ()


# ---- of a live process ---------------------------------------------------------------------------


def mapping_at(mappings: tuple[Mapping, ...], address: int) -> Mapping:
    return next(one for one in mappings if one.start <= address < one.end)


@pytest.mark.kernel("uffd_wp_async")
def test_the_mappings_of_a_process_are_all_there(target: Target) -> None:
    target.run("hold = threading.Event(); t = threading.Thread(target=hold.wait, daemon=True); t.start()")
    start = target.run("m = os.memfd_create('frames'); os.ftruncate(m, P); answer = memory(1, RW, SHARED, m)")
    with ww.attach(target.pid) as tracker:
        mappings = tracker.collect().mappings
    vmas: list[Vma] = [vma for mapping in mappings for vma in mapping.vmas]
    assert vmas == sorted(vmas, key=lambda vma: vma.start)
    assert all(one.kind in KINDS and one.name for one in mappings)
    assert mapping_at(mappings, start).name == "memfd:frames"
    found = {one.name for one in mappings}
    assert {"[heap]", "[stack]", "thread stack", "[vdso]"} <= found
    assert any(re.match(r"libc[.-].*so.* \.data", name) for name in found)


@pytest.mark.kernel("uffd_wp_async")
def test_what_the_kernel_never_registers_is_shown_as_not_tracked(target: Target) -> None:
    with ww.attach(target.pid) as tracker:
        mappings = tracker.collect().mappings
    special = [one for one in mappings if one.kind == "special" and one.name in ("[vdso]", "[vvar]")]
    assert special
    assert all(not one.tracked for one in special)


def test_the_span_of_a_program_reaches_to_the_end_of_its_bss() -> None:
    with open("/proc/self/exe", "rb") as file:
        head = file.read(1 << 16)
    span = span_of(head, 4096)
    assert span
    assert span % 4096 == 0


@pytest.mark.parametrize("head", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + b"\0" * 90, b"\x7fELF\x02\x01"])
def test_what_is_no_program_has_no_span(head: bytes) -> None:
    assert span_of(head, 4096) == 0


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (b"/srv/caf\xc3\xa9", "/srv/caf\u00e9"),
        (b"/srv/caf\xe9", "/srv/caf\\xe9"),
        (b"/srv/\x1b[31mred\x07", "/srv/\\x1b[31mred\\x07"),
        ("/srv/\u202etxt.exe".encode(), "/srv/\\u202etxt.exe"),
        (b"/srv/new\\012line", "/srv/new\\012line"),
    ],
)
def test_a_name_of_whatever_bytes_can_be_shown_and_kept(given: bytes, shown: str) -> None:
    (mapping,) = named(parse_maps(b"1000-2000 rw-s 0 08:01 7 " + given + b"\n"))
    assert mapping.name == shown
    assert mapping.name.isprintable()
    mapping.name.encode()
