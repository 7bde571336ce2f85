"""Mappings and the files that back them: mmap and its kin, memfd_create and what changes a file.

What each call does is documented at ``KernelCalls``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from writewatch.abi import mman
from writewatch.model import file_calls
from writewatch.model.madvise import madvise
from writewatch.model.mincore import mincore
from writewatch.model.mmap import mmap, mprotect
from writewatch.model.mremap import mremap
from writewatch.model.munmap import munmap
from writewatch.model.populate import populate_vma
from writewatch.model.process import Process
from writewatch.model.waits import Steps


class MmCalls(Process):
    """The part of ``KernelCalls`` that changes an mm and its files."""

    def mmap(self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        return self._run(self._mmap_steps(addr, length, prot, flags, fd, offset))

    def _mmap_steps(
        self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0
    ) -> Steps[int]:
        opened = None if flags & mman.MAP_ANONYMOUS else self.descriptors.file(fd)
        start = yield from mmap(self.mm, addr, length, prot, flags, opened, offset)
        vma = self.mm.vmas.find(start)
        if vma is not None and flags & (mman.MAP_POPULATE | mman.MAP_LOCKED) and not vma.is_hugetlb:
            yield from populate_vma(self.mm, vma, start, min(vma.end, start + length))
        return start

    def munmap(self, addr: int, length: int) -> None:
        self._run(self._munmap_steps(addr, length))

    def _munmap_steps(self, addr: int, length: int) -> Steps[None]:
        yield from munmap(self.mm, addr, length)

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        mprotect(self.mm, addr, length, prot)

    def mremap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int = 0) -> int:
        return self._run(self._mremap_steps(addr, old_length, new_length, flags, new_addr))

    def _mremap_steps(
        self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int = 0
    ) -> Steps[int]:
        return (yield from mremap(self.mm, addr, old_length, new_length, flags, new_addr))

    def madvise(self, addr: int, length: int, advice: int) -> None:
        self._run(self._madvise_steps(addr, length, advice))

    def _madvise_steps(self, addr: int, length: int, advice: int) -> Steps[None]:
        yield from madvise(self.mm, addr, length, advice)

    def msync(self, addr: int, length: int, flags: int) -> None:
        file_calls.msync(self.mm, addr, length, flags)

    def mincore(self, addr: int, length: int) -> NDArray[np.uint8]:
        return mincore(self.mm, addr, length)

    def memfd_create(self, name: str, flags: int) -> int:
        return self.descriptors.install(file_calls.memfd_create(self.machine, name, flags))

    def ftruncate(self, fd: int, length: int) -> None:
        file_calls.ftruncate(self.machine, self.descriptors.file(fd), length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        file_calls.fallocate(self.machine, self.descriptors.file(fd), mode, offset, length)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return file_calls.pwrite(self.machine, self.descriptors.file(fd), data, offset)
