"""Who writes unseen, and that it is said."""

from __future__ import annotations

import os

import pytest

import writewatch as ww
from tests.tracker.process.targets import Target
from writewatch.kernel.default import default_calls
from writewatch.tracker.process import blindness
from writewatch.tracker.process.blindness import BlindSpots, direct_writers, sharers
from writewatch.tracker.process.layout import Layout

TWO_VIEWS = (
    b"10000-20000 rw-s 00000000 00:01 77 /memfd:heap (deleted)\n"
    b"30000-38000 rw-s 00008000 00:01 77 /memfd:heap (deleted)\n"
    b"40000-48000 rw-s 00018000 00:01 77 /memfd:heap (deleted)\n"
    b"50000-58000 rw-p 00000000 00:00 0 \n"
)


def unseen(target_pid: int, text: bytes) -> dict[int, str]:
    """Start -> what is said of a mapping."""
    spots = BlindSpots(target_pid, default_calls())
    return {vma.start: why for vma, why in spots.look(Layout.of(text, 4096)).items()}


def test_a_file_that_is_mapped_twice_is_said_where_the_views_overlap() -> None:
    said = unseen(os.getpid(), TWO_VIEWS)
    assert "also mapped at [0x30000, 0x38000)" in said[0x10000]
    assert "also mapped at [0x10000, 0x20000)" in said[0x30000]
    assert "also mapped at" not in said[0x40000]
    assert 0x50000 not in said


def test_a_mapped_file_says_that_only_stores_are_seen() -> None:
    said = unseen(os.getpid(), b"10000-20000 rw-s 00000000 08:01 77 /var/db\n")
    assert said[0x10000].startswith("stores only: write(2)")
    said = unseen(os.getpid(), b"10000-20000 rw-s 00000000 00:01 77 /SYSV00000000 (deleted)\n")
    assert said[0x10000].startswith("content that is dropped (MADV_REMOVE) is not seen")


def test_processes_that_share_memory_are_found(target: Target) -> None:
    start = target.memory(1, "RW", "SHARED | ANON")
    pid = target.run("p = os.fork()\nif not p: signal.pause()\nanswer = p")
    with open(f"/proc/{target.pid}/maps") as maps:
        line = next(line for line in maps if line.startswith(f"{start:x}-"))
    inode = line.split()[3], int(line.split()[4])
    assert sharers(target.pid, [inode]) == {inode: [pid]}
    os.kill(pid, 9)


def test_others_are_looked_for_again_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def ask(_: int, inodes: object) -> dict[object, object]:
        asked.append(inodes)
        return {}

    monkeypatch.setattr(blindness, "sharers", ask)
    now = 1
    spots = BlindSpots(os.getpid(), default_calls(), clock=lambda: now)
    layout = Layout.of(TWO_VIEWS, 4096)
    for _ in range(3):
        spots.look(layout)
    assert len(asked) == 1
    now += 60_000_000_000
    spots.look(layout)
    assert len(asked) == 2
    spots.look(Layout.of(TWO_VIEWS.replace(b" 77 ", b" 78 "), 4096))
    assert len(asked) == 3  # a file that was not there before


def test_an_io_uring_is_told(target: Target) -> None:
    made = target.run(
        "b = ctypes.create_string_buffer(120); answer = libc.syscall(425, 4, ctypes.byref(b))"  # io_uring_setup
    )
    if made < 0:
        pytest.skip("io_uring is switched off (kernel.io_uring_disabled, or a filter)")
    assert direct_writers(target.pid) == ("io_uring",)
    spots = BlindSpots(target.pid, default_calls())
    spots.look(Layout.of(b"", 4096))
    assert any("io_uring" in note and "not seen" in note for note in spots.notes)


def test_a_process_that_is_gone_has_nothing_to_tell() -> None:
    assert direct_writers(1 << 22) == ()


@pytest.mark.kernel("uffd_wp_async")
def test_it_is_said_beside_the_mapping(target: Target) -> None:
    start = target.memory(1, "RW", "SHARED | ANON")
    pid = target.run("p = os.fork()\nif not p: signal.pause()\nanswer = p")
    with ww.attach(target.pid) as tracker:
        mapping = next(one for one in tracker.collect().mappings if one.start <= start < one.end)
    assert mapping.tracked
    assert f"also mapped by process {pid} (" in str(mapping.unseen)
    os.kill(pid, 9)
