"""Who may write to the memory of a process without being seen, as far as it can be told.

Page tables are per process and consulted by the processor alone. So three kinds of writers leave no trace in those
of the target: other mappings of shared memory, in itself or in another process; whatever changes a mapped file
underneath; and devices, or io_uring, that write to pages pinned before they were protected.

All of this is read from ``/proc``, now and then. What the target's descriptors show is a possibility, and worded as
one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.tracker.process.layout import Layout
from writewatch.tracker.process.procfiles import command_of

Inode: TypeAlias = tuple[str, int]

#: Descriptors and pinned memory are looked at this often at most; other processes' maps cost more.
_DESCRIPTORS_EVERY_NS: Final = 2_000_000_000
_SHARERS_EVERY_NS: Final = 10_000_000_000
#: Descriptors looked through at a time: a server may have a million.
_MOST_DESCRIPTORS: Final = 4096

_STORES_ONLY: Final = "stores only: write(2) to the file, truncation and other mappings of it are not seen"
_DROPPED: Final = "content that is dropped (MADV_REMOVE) is not seen"
_EVICTED: Final = "nor a page that is first used and evicted by memory pressure between two looks"
_TWICE: Final = "also mapped at {}: a store is reported under the address that it went through"
_SHARED_WITH: Final = (
    "also mapped by {}: their stores are not seen here; watch them too, and join by file and offset"
)

#: Link of a descriptor -> who is behind it. The first that fits.
_DEVICES: Final = (
    ("anon_inode:[io_uring]", "io_uring"),
    ("/dev/infiniband/", "RDMA"),
    ("/dev/nvidia", "a GPU"),
    ("/dev/dri/", "a GPU"),
    ("/dev/kfd", "a GPU"),
    ("/dev/vfio/", "a device given to user space (VFIO)"),
    ("anon_inode:[vfio", "a device given to user space (VFIO)"),
)
_DEVICE: Final = (
    "it uses {}: what that writes to memory that was pinned for it before watching began is not seen"
)
_PINNED: Final = (
    "{} of its memory are pinned for a device or io_uring (VmPin): what is written there by DMA is not seen"
)


class BlindSpots:
    """The watch for writers that cannot be seen.

    Args:
        pid: Of the process.
        calls: What to ask.
        clock: Nanoseconds, monotonic.
    """

    def __init__(self, pid: int, calls: KernelCalls, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._pid = pid
        self._calls = calls
        self._clock = clock
        self._descriptors_again = self._sharers_again = 0
        self._inodes: frozenset[Inode] = frozenset()
        self._sharers: dict[Inode, list[int]] = {}
        self.notes: tuple[str, ...] = ()

    def look(self, layout: Layout) -> dict[Vma, str]:
        """Mapping -> who may write to it unseen; ``notes`` has what concerns all."""
        now = self._clock()
        if now >= self._descriptors_again:
            self._descriptors_again = now + _DESCRIPTORS_EVERY_NS
            self.notes = tuple(self._of_devices())
        shared = [vma for vma in layout.candidates if vma.is_shared]
        inodes = frozenset((vma.device, vma.inode) for vma in shared)
        if inodes - self._inodes or now >= self._sharers_again:
            self._inodes, self._sharers_again = inodes, now + _SHARERS_EVERY_NS
            self._sharers = sharers(self._pid, inodes) if inodes else {}
        return {vma: self._why(vma, shared) for vma in shared}

    def _of_devices(self) -> Iterator[str]:
        for kind in direct_writers(self._pid):
            yield _DEVICE.format(kind)
        with contextlib.suppress(OSError):
            pinned = self._calls.pinned_bytes(self._pid)
            if pinned:
                yield _PINNED.format(f"{pinned} bytes")

    def _why(self, vma: Vma, shared: list[Vma]) -> str:
        sentences = []
        others = [f"[{other.start:#x}, {other.end:#x})" for other in shared if _is_same_file(vma, other)]
        if others:
            sentences.append(_TWICE.format(others[0]))
        pids = self._sharers.get((vma.device, vma.inode))
        if pids:
            sentences.append(_SHARED_WITH.format(_people(pids)))
        sentences.append(f"{_STORES_ONLY if is_real_file(vma) else _DROPPED}, {_EVICTED}")
        return "; ".join(sentences)


def _is_same_file(one: Vma, other: Vma) -> bool:
    """Whether two mappings show a common part of a file."""
    if one == other or (one.device, one.inode) != (other.device, other.inode):
        return False
    ends = one.offset + one.end - one.start, other.offset + other.end - other.start
    return one.offset < ends[1] and other.offset < ends[0]


def is_real_file(vma: Vma) -> bool:
    """Whether write(2) may reach it: a path, and not memory that only looks like a file."""
    return not vma.name.startswith(("/dev/zero", "/SYSV", "/anon_hugepage", "[anon"))


def _people(pids: list[int]) -> str:
    first = f"process {pids[0]} ({command_of(pids[0]) or 'gone'})"
    return first if len(pids) == 1 else f"{first} and {len(pids) - 1} others"


def sharers(pid: int, inodes: Iterable[Inode]) -> dict[Inode, list[int]]:
    """Other processes that map some files, as far as this one may look. Reads the ``maps`` of all of them."""
    wanted = {f" {device} {inode} ".encode(): (device, inode) for device, inode in inodes}
    found: dict[Inode, list[int]] = defaultdict(list)
    for other in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if other == pid:
            continue
        with contextlib.suppress(OSError), open(f"/proc/{other}/maps", "rb", buffering=0) as file:
            text = file.readall()
            for needle, inode in wanted.items():
                if needle in text:
                    found[inode].append(other)
    return dict(found)


def direct_writers(pid: int) -> tuple[str, ...]:
    """What a process has open that may write to its memory past the processor, each kind once."""
    found: dict[str, None] = {}
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry, _ in zip(entries, range(_MOST_DESCRIPTORS), strict=False):
            with contextlib.suppress(OSError):
                link = os.readlink(entry.path)
                found |= {kind: None for prefix, kind in _DEVICES if link.startswith(prefix)}
    return tuple(found)
