r"""``/proc/PID/maps``, and the few lines of ``smaps`` and ``status`` that matter to tracking.

Formats: ``Documentation/filesystems/proc.rst``. A path is escaped by the kernel (``\012`` for a newline),
so a line is a line. Parsing is apart from reading: the parsers take bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from writewatch.abi.calls import Vma

_MAPS_LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) *(.*)$")


def parse_maps(text: bytes) -> tuple[Vma, ...]:
    """Every VMA of a ``maps`` file, ascending as the kernel prints them."""
    return tuple(_parse_line(line) for line in _lines(text))


def _lines(text: bytes) -> list[bytes]:
    # Not splitlines(): of all that ends a line for it, the kernel escapes only the newline in a path.
    return [line for line in text.split(b"\n") if line]


def _parse_line(line: bytes) -> Vma:
    match = _MAPS_LINE.match(line)
    if match is None:
        raise ValueError(f"not a line of /proc/PID/maps: {line!r}")
    start, end, perms, offset, device, inode, name = match.groups()
    return Vma(
        int(start, 16),
        int(end, 16),
        perms.decode("ascii"),
        int(offset, 16),
        device.decode("ascii"),
        int(inode),
        name.decode("utf-8", "surrogateescape"),
    )


def status_bytes(text: bytes, key: bytes) -> int:
    """A ``kB`` line of ``/proc/PID/status`` such as ``VmPin:``, in bytes; 0 where the line is absent."""
    at = text.find(b"\n" + key)
    return int(text[at + 1 + len(key) :].split(None, 1)[0]) * 1024 if at >= 0 else 0


@dataclass(frozen=True, slots=True)
class SmapsVma:
    """What ``/proc/PID/smaps`` adds about one VMA.

    Attributes:
        vma: Its ``maps`` line.
        flags: Two-letter ``VmFlags``: ``um``, ``uw``, ``ui`` say registered for missing, WP, minor faults.
        huge_bytes: ``AnonHugePages`` and ``ShmemPmdMapped`` together.
        locked_bytes: ``Locked``.
        swap_bytes: ``Swap``; of a shared mapping of shmem what its file has in swap there.
        kernel_page_size: Of a hugetlb mapping the huge page, else the base page.
    """

    vma: Vma
    flags: frozenset[str]
    huge_bytes: int
    locked_bytes: int
    swap_bytes: int
    kernel_page_size: int

    @property
    def is_registered_wp(self) -> bool:
        """Whether some userfaultfd has the VMA registered for write-protection."""
        return "uw" in self.flags


def parse_smaps(text: bytes) -> tuple[SmapsVma, ...]:
    """Every VMA of a ``smaps`` file."""
    return tuple(_parse_entry(lines) for lines in _entries(_lines(text)))


def _entries(lines: list[bytes]) -> list[list[bytes]]:
    entries: list[list[bytes]] = []
    for line in lines:
        if _MAPS_LINE.match(line):
            entries.append([])
        entries[-1].append(line)
    return entries


def _parse_entry(lines: list[bytes]) -> SmapsVma:
    facts = dict(line.split(b":", 1) for line in lines[1:])

    def kib(key: bytes) -> int:
        return int(facts[key].split()[0]) * 1024 if key in facts else 0

    return SmapsVma(
        _parse_line(lines[0]),
        frozenset(facts.get(b"VmFlags", b"").decode("ascii").split()),
        kib(b"AnonHugePages") + kib(b"ShmemPmdMapped"),
        kib(b"Locked"),
        kib(b"Swap"),
        kib(b"KernelPageSize"),
    )


def read_smaps(pid: int | None = None) -> tuple[SmapsVma, ...]:
    """``smaps`` of a process; None means this one."""
    with open(f"/proc/{'self' if pid is None else pid}/smaps", "rb", buffering=0) as file:
        return parse_smaps(file.readall())
