"""Where the kernel cannot unregister a mapping of a file, nobody asks it to: closing the descriptor does it."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest

import writewatch as ww
from tests.tracker.process.targets import PAGE, Target
from writewatch.abi.calls import Vma
from writewatch.abi.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.maps import read_smaps
from writewatch.tracker import unregistering
from writewatch.tracker.unregistering import Unregistering

pytestmark = pytest.mark.kernel("uffd_wp_async")

SPANS = {
    "file": "/usr/lib/libfoo.so",
    "memfd": "/memfd:x (deleted)",
    "sysv": "/SYSV00000000 (deleted)",
    "shm": "/dev/shm/x",
}


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unregistering, "running_release", lambda: (6, 12, 117))


@pytest.fixture
def table(tmp_path: Path) -> np.memmap:
    path = tmp_path / "table"
    path.write_bytes(bytes(8 * PAGE))
    return np.memmap(path, np.uint8, "c")


@pytest.fixture
def target() -> Iterator[Target]:
    """A Python child."""
    with Target() as made:
        yield made


def registered_bytes(start: int, end: int, pid: int | None = None) -> int:
    """Bytes of a span that are registered with some userfaultfd for write-protection."""
    inside = [one for one in read_smaps(pid) if one.is_registered_wp]
    return sum(max(0, min(end, one.vma.end) - max(start, one.vma.start)) for one in inside)


def vma(kind: str, perms: str = "rw-p") -> Vma:
    return Vma(0x10000, 0x20000, perms, 0, "00:01", 0 if kind == "anonymous" else 7, SPANS.get(kind, ""))


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    ("kind", "perms", "safe"),
    [
        ("anonymous", "rw-p", True),
        ("file", "rw-p", False),
        ("file", "rw-s", False),
        ("memfd", "rw-s", True),
        ("sysv", "rw-s", False),
        ("shm", "rw-s", False),
    ],
)
def test_memory_that_is_no_file_can_be_unregistered(kind: str, perms: str, safe: bool) -> None:
    assert Unregistering(LinuxCalls()).is_safe(vma(kind, perms)) is safe


@pytest.mark.usefixtures("limited")
def test_a_file_in_dev_shm_can_be_unregistered_where_that_is_a_tmpfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is none it may be anything: here it is the parameter "shm" of the test above."""
    monkeypatch.setattr(unregistering, "tmpfs_devices", lambda: {"00:01"})
    assert Unregistering(LinuxCalls()).is_safe(vma("shm", "rw-s"))


def test_the_device_of_a_tmpfs_is_written_as_in_maps() -> None:
    if b" /dev/shm tmpfs rw" not in Path("/proc/mounts").read_bytes() or not os.access("/dev/shm", os.W_OK):
        pytest.skip("/dev/shm: no tmpfs is mounted there")
    segment = shared_memory.SharedMemory(create=True, size=PAGE)
    try:
        (mapping,) = [
            one for one in LinuxCalls().vmas(None) if one.name == f"/dev/shm/{segment.name.lstrip('/')}"
        ]
        assert mapping.device in unregistering.tmpfs_devices()
    finally:
        segment.close()
        segment.unlink()


@pytest.mark.usefixtures("limited")
@pytest.mark.filterwarnings("ignore::writewatch.UnseenWritesWarning")
def test_a_private_file_stays_registered_until_the_last_tracker_is_closed(table: np.memmap) -> None:
    start = table.ctypes.data
    anonymous = ww.allocate((4, PAGE), "u1")
    kept = ww.track(anonymous, backend="uffd-wp")
    with ww.track(table[2 * PAGE : 5 * PAGE], backend="uffd-wp") as tracker:
        table[3 * PAGE] = 1
        assert tracker.collect().n_pages == 1
    assert registered_bytes(start, start + 8 * PAGE) == 3 * PAGE
    with ww.track(table[2 * PAGE : 5 * PAGE], backend="uffd-wp") as tracker:
        table[4 * PAGE] = 1
        assert tracker.collect().pages(table[2 * PAGE : 5 * PAGE]).tolist() == [2]
    kept.close()
    assert registered_bytes(start, start + 8 * PAGE) == 0


@pytest.mark.usefixtures("limited")
def test_other_memory_is_unregistered_at_once() -> None:
    kept = ww.track(ww.allocate((4, PAGE), "u1"), backend="uffd-wp")
    buffer = mmap.mmap(-1, 8 * PAGE)
    array = np.frombuffer(buffer, "u1")
    ww.track(array, backend="uffd-wp").close()
    start = array.ctypes.data
    assert registered_bytes(start, start + 8 * PAGE) == 0
    kept.close()


class CountingCalls(LinuxCalls):
    """Counts how often the mappings are read; from some moment on they cannot be."""

    n_reads, is_full = 0, False

    def vmas(self, pid: int | None) -> tuple[Vma, ...]:
        self.n_reads += 1
        if self.is_full:
            raise OSError(errno.EMFILE, "injected")
        return super().vmas(pid)


@pytest.mark.usefixtures("limited")
def test_the_mappings_are_read_once_for_many_ranges() -> None:
    calls = CountingCalls()
    table = ww.allocate((300 * 20, PAGE), "u1")
    tracker = ww.track(*table[::20], backend="uffd-wp", calls=calls)
    before = calls.n_reads
    tracker.close()
    assert calls.n_reads - before <= 2
    assert registered_bytes(table.ctypes.data, table.ctypes.data + table.nbytes) == 0


@pytest.mark.parametrize("release", [(6, 12, 117), (6, 18, 44)], ids=str)
def test_a_tracker_can_be_closed_when_the_mappings_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, release: tuple[int, int, int]
) -> None:
    """No descriptor may be free; then those of the tracker have to be given back all the same."""
    monkeypatch.setattr(unregistering, "running_release", lambda: release)
    calls = CountingCalls()
    start = calls.mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
    before = len(os.listdir("/proc/self/fd"))
    tracker = ww.track(ww.AddrRange(start, start + 8 * PAGE), backend="uffd-wp", calls=calls)
    calls.munmap(start, 8 * PAGE)  # unregistering it at once fails
    calls.is_full = True
    tracker.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("limited")
def test_watching_a_process_leaves_nothing_registered(target: Target) -> None:
    with ww.attach(target.pid) as tracker:
        tracker.collect()
        assert registered_bytes(0, 1 << 47, target.pid) > 0
    assert registered_bytes(0, 1 << 47, target.pid) == 0
    assert os.path.exists(f"/proc/{target.pid}")
