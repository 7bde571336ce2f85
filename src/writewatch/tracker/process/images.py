"""How far programs and libraries reach in memory: the end of their ``.bss``, which is in no file.

The kernel joins the anonymous tail of a library with whatever anonymous memory comes to lie behind it, so ``maps``
alone does not tell where the one ends. The program headers of the file do.

Truth: elf(5); ``load_elf_binary()`` in ``fs/binfmt_elf.c``, ``_dl_map_segments()`` in glibc's
    ``elf/dl-map-segments.h``.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from typing import Final, TypeAlias

from writewatch.abi.calls import Vma
from writewatch.pages import round_down, round_up

Inode: TypeAlias = tuple[str, int]

_PT_LOAD: Final = 1
#: e_phoff, e_phentsize, e_phnum of a 64-bit ELF header.
_HEADER: Final = struct.Struct("<32xQ14xHH6x")
#: p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_MOST_BYTES: Final = 4096  # linkers put the program headers behind the ELF header


def span_of(head: bytes, page_size: int) -> int:
    """Bytes from the start of the first segment to the end of ``.bss``, in whole pages; 0 for what is no such ELF."""
    if head[:6] != b"\x7fELF\x02\x01" or len(head) < _HEADER.size:
        return 0
    at, size, count = _HEADER.unpack_from(head)
    headers = [head[i : i + _SEGMENT.size] for i in range(at, at + size * count, max(size, _SEGMENT.size))]
    segments = [_SEGMENT.unpack(header) for header in headers if len(header) == _SEGMENT.size]
    ranges = [(vaddr, vaddr + memsz) for kind, _, _, vaddr, _, _, memsz, _ in segments if kind == _PT_LOAD]
    if not ranges:
        return 0
    return round_up(max(end for _, end in ranges), page_size) - round_down(min(ranges)[0], page_size)


class Images:
    """Spans of the images of one process; each file is read once.

    Args:
        view: Whose ``/proc`` directory leads to the files, in its own mount namespace.
        page_size: Bytes.
    """

    def __init__(self, view: int, page_size: int) -> None:
        self._root = f"/proc/{view}/root"
        self._page_size = page_size
        self._known: dict[Inode, int] = {}

    def spans(self, vmas: Iterable[Vma]) -> dict[Inode, int]:
        """Of each image that is mapped from its start: how far it reaches; those that cannot be read are left out."""
        firsts = {
            (vma.device, vma.inode): vma.name
            for vma in vmas
            if vma.name.startswith("/") and not vma.offset and not vma.is_shared and not vma.is_writable
        }
        for inode, path in firsts.items():
            if inode not in self._known:
                self._known[inode] = self._read(path)
        return {inode: span for inode in firsts if (span := self._known[inode])}

    def _read(self, path: str) -> int:
        with contextlib.suppress(OSError), open(self._root + path, "rb", buffering=0) as file:
            return span_of(file.read(_MOST_BYTES), self._page_size)
        return 0
